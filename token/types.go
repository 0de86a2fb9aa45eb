package token

import (
	"github.com/google/uuid"
)

// SubjectPrefix begins the claim sub of a client's token; only such subjects may call.
const SubjectPrefix = "Client::"

// Claims is the claims set of an access token (RFC 9068), already checked.
type Claims struct {
	ID           uuid.UUID // jti
	Organization string    // oid
	Client       string    // client_id; sub is SubjectPrefix + Client
	Issuer       string    // iss
	Audience     string    // aud, as issued; verified tokens may list others beside it
	Scope        string    // space-separated; may be empty
	IssuedAt     int64     // iat, seconds
	NotBefore    int64     // nbf, seconds; 0 when absent
	Expires      int64     // exp, seconds
}

// Invalid is why a token is refused. Its text is the error_description of RFC 6750
// §3, from the closed set below: safe to show, and never the input.
type Invalid string

func (i Invalid) Error() string { return string(i) }

// The closed set of descriptions.
const (
	Malformed     Invalid = "the access token is malformed"
	BadSignature  Invalid = "the access token's signature is wrong"
	UnknownKey    Invalid = "the access token was signed with an unknown key"
	Expired       Invalid = "the access token expired"
	NotYetValid   Invalid = "the access token is not yet valid"
	WrongIssuer   Invalid = "the access token is from another issuer"
	WrongAudience Invalid = "the access token is for another audience"
	Revoked       Invalid = "the access token was revoked"
	ClientRefused Invalid = "the client may not call"
)
