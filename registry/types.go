package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/secret"
)

// Errors that callers tell apart with errors.Is. The text is for people.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("conflict")
	ErrUnavailable = errors.New("store unavailable") // locked, closed, full or unreachable: our own fault, never the caller's
)

// Time is Unix milliseconds, the unit of the guide. Zero means never and is null in JSON and in the store.
type Time int64

// At converts t.
func At(t time.Time) Time { return Time(t.UnixMilli()) }

// Time converts back; the zero Time gives the zero time.Time.
func (t Time) Time() time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(t)).UTC()
}

// MarshalJSON writes milliseconds, or null for never.
func (t Time) MarshalJSON() ([]byte, error) {
	if t == 0 {
		return []byte("null"), nil
	}
	return strconv.AppendInt(nil, int64(t), 10), nil
}

// State of one field of Terms.
type State uint8

// The three states. The zero value inherits.
const (
	Unset State = iota
	Value
	Unlimited
)

// Limit is a number of Terms: unset (inherit), a value (0 allows nothing) or unlimited.
type Limit struct {
	State State
	Value int64
}

// MarshalJSON writes null, the number, or "unlimited".
func (l Limit) MarshalJSON() ([]byte, error) {
	switch l.State {
	case Value:
		return strconv.AppendInt(nil, l.Value, 10), nil
	case Unlimited:
		return []byte(`"unlimited"`), nil
	}
	return []byte("null"), nil
}

// Set is a set of names in Terms: unset (inherit), the names (none allows nothing) or unlimited.
type Set struct {
	State  State
	Values []string
}

// MarshalJSON writes null, the list, or "unlimited".
func (s Set) MarshalJSON() ([]byte, error) {
	switch s.State {
	case Value:
		return json.Marshal(append([]string{}, s.Values...))
	case Unlimited:
		return []byte(`"unlimited"`), nil
	}
	return []byte("null"), nil
}

// Terms is what a licence allows (organization or agreement).
type Terms struct {
	Products      Set   `json:"products"`       // scopes that a client may ask for
	Catalogs      Set   `json:"catalogs"`       // external ids beyond the organization's own and the public ones
	RequestRate   Limit `json:"request_rate"`   // requests a second
	RequestBurst  Limit `json:"request_burst"`  // requests
	Concurrent    Limit `json:"concurrent"`     // requests at once
	QuotaDay      Limit `json:"quota_day"`      // requests in a UTC day
	QuotaMonth    Limit `json:"quota_month"`    // requests in a calendar month, UTC
	TokenLifetime Limit `json:"token_lifetime"` // seconds
	IssueRate     Limit `json:"issue_rate"`     // tokens a minute
}

// Organization is an external company that uses the services.
type Organization struct {
	ID              string `json:"id"`
	Name            string `json:"name"`
	Terms           Terms  `json:"terms"`
	TokensValidFrom Time   `json:"tokens_valid_from"` // tokens issued at or before it are revoked
	CreatedAt       Time   `json:"created_at"`
	DisabledAt      Time   `json:"disabled_at"`
	RemovedAt       Time   `json:"removed_at"`
}

// Agreement is the licence contract of an organization.
type Agreement struct {
	ID             string `json:"id"`
	OrganizationID string `json:"organization_id"`
	Name           string `json:"name"`
	StartsAt       Time   `json:"starts_at"`
	EndsAt         Time   `json:"ends_at"` // zero: open
	Terms          Terms  `json:"terms"`
	Enforce        Mode   `json:"enforce"`
	CreatedAt      Time   `json:"created_at"`
	RemovedAt      Time   `json:"removed_at"`
}

// Mode says what becomes of a request that an agreement does not allow.
type Mode string

// The modes.
const (
	Enforce Mode = "enforce" // it is refused
	Shadow  Mode = "shadow"  // it is let through, and counted
)

// InForce reports whether requests and issuing at now are covered.
func (a Agreement) InForce(now Time) bool {
	return a.RemovedAt == 0 && a.StartsAt <= now && (a.EndsAt == 0 || now < a.EndsAt)
}

// Catalog is a collection of tracks that requests target.
type Catalog struct {
	ID             string `json:"id"`
	ExternalID     string `json:"external_id"` // unique; what routes read and X-Catalog-Id carries
	OrganizationID string `json:"organization_id,omitempty"`
	Public         bool   `json:"public"` // shared with all; a private one has one owner
	Name           string `json:"name"`
	CreatedAt      Time   `json:"created_at"`
	RemovedAt      Time   `json:"removed_at"`
}

// Client is one application in one stage.
type Client struct {
	ID              string         `json:"client_id"`
	OrganizationID  string         `json:"organization_id"`
	AgreementID     string         `json:"agreement_id,omitempty"`
	Application     string         `json:"application"`
	Environment     string         `json:"environment"`
	TokensValidFrom Time           `json:"tokens_valid_from"`
	CreatedAt       Time           `json:"created_at"`
	DisabledAt      Time           `json:"disabled_at"`
	RemovedAt       Time           `json:"removed_at"`
	Secrets         []ClientSecret `json:"secrets"` // the live ones, oldest first
}

// SecretKind says how the store recognizes a client secret.
type SecretKind string

// The kinds of client secret.
const (
	SHA256   SecretKind = "sha256"   // plain SHA-256: 256 random bits, of our making or imported as such
	Bcrypt   SecretKind = "bcrypt"   // imported
	Argon2id SecretKind = "argon2id" // imported
)

// ClientSecret is the record of one secret; the secret itself is never kept.
type ClientSecret struct {
	ID         string        `json:"id"`
	Kind       SecretKind    `json:"kind"`
	Digest     secret.Digest `json:"-"`        // of a SHA256 one
	Hash       secret.Secret `json:"-"`        // of a weak one: the bcrypt or PHC text
	Imported   bool          `json:"imported"` // made by somebody else: it may not have our form
	CreatedAt  Time          `json:"created_at"`
	ExpiresAt  Time          `json:"expires_at"` // set when another secret replaces it
	LastUsedAt Time          `json:"last_used_at"`
}

// Weak reports whether the secret may be one that can be guessed, so that only a slow hash of it is kept.
func (s ClientSecret) Weak() bool { return s.Kind == Bcrypt || s.Kind == Argon2id }

// Live reports whether the secret is good at now.
func (s ClientSecret) Live(now Time) bool { return s.ExpiresAt == 0 || now < s.ExpiresAt }

// Grant is a client with what decides about it, read in one transaction.
type Grant struct {
	Client       Client
	Organization Organization
	Agreement    *Agreement // nil when the client is linked to none; a removed one is present
}

// Token is the record of one issue.
type Token struct {
	ID             string `json:"id"`
	RemovedAt      Time   `json:"removed_at"`
	RefreshedAt    Time   `json:"refreshed_at"`
	RevokedAt      Time   `json:"revoked_at"`
	SubjectType    string `json:"subject_type"`
	SubjectID      string `json:"subject_id"`
	IssuedAt       Time   `json:"issued_at"`
	ExpiresAt      Time   `json:"expires_at"` // the last expiry that any JWT of this record has
	IssuerType     string `json:"issuer_type,omitempty"`
	IssuerID       string `json:"issuer_id,omitempty"`
	OrganizationID string `json:"organization_id"`
	Scope          string `json:"scope"`
	KeyID          string `json:"key_id"`
}

// Key is a signing key. Private is PKCS #8 DER, unwrapped; it is never printed.
type Key struct {
	ID            string        `json:"kid"`
	Algorithm     string        `json:"algorithm"`
	Private       secret.Secret `json:"-"`
	CreatedAt     Time          `json:"created_at"`
	SignsFrom     Time          `json:"signs_from"`     // published before, so that verifiers know it when it signs
	VerifiesUntil Time          `json:"verifies_until"` // zero while it signs; then until the last token that it signed has expired
	RemovedAt     Time          `json:"removed_at"`
}

// Revocation is one revoked token, kept until no JWT of it can be valid.
type Revocation struct {
	TokenID string
	Until   Time
}

// Change is one line of the feed.
type Change struct {
	Seq  int64
	Kind Kind
	ID   string
	At   Time // when, by the clock of who wrote it: shortly before the commit
}

// Kind says what a change is about.
type Kind string

// The kinds of change.
const (
	KindOrganization Kind = "organization"
	KindAgreement    Kind = "agreement"
	KindCatalog      Kind = "catalog"
	KindClient       Kind = "client"
	KindToken        Kind = "token"
	KindKey          Kind = "key"
	KindStore        Kind = "store" // in the audit trail alone: the whole of it was copied
)

// Actor is who did something, for the audit trail.
type Actor struct {
	Kind    string // "operator", "client", "user" or "postern"
	ID      string
	Address string // where from; may be empty
}

// Event is one line of the audit trail. It never leaves the store.
type Event struct {
	At     Time
	Actor  Actor
	Action string // "create", "change", "disable", …
	Kind   Kind
	ID     string
	Detail string
}

// Environment folds a stage label: dev and prod are stored as development and production.
func Environment(label string) (string, error) {
	switch label {
	case "dev":
		return "development", nil
	case "prod":
		return "production", nil
	}
	if len(label) < 1 || len(label) > 32 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "", fmt.Errorf("environment %q: use 1 to 32 of a-z, 0-9 and -, for example production", label)
	}
	return label, nil
}

// Has reports whether the set allows name.
func (s Set) Has(name string) bool {
	return s.State == Unlimited || s.State == Value && slices.Contains(s.Values, name)
}
