package issuer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"postern/token"
)

const (
	serverPath   = "/.well-known/oauth-authorization-server" // RFC 8414 §3
	providerPath = "/.well-known/openid-configuration"       // where many libraries look first; the same document
)

// metadata is what an OAuth 2 client needs to know to work with us (RFC 8414 §2). There is
// no authorization endpoint, so no response type; the last two fields are there for
// libraries that insist on OpenID Connect's. keys are all that verify now: what an earlier
// algorithm signed may live on, and libraries refuse what is not listed.
func metadata(o Options, keys *token.KeySet) []byte {
	root := strings.TrimSuffix(o.URL, "/")
	methods := []string{"client_secret_basic", "client_secret_post"}
	algorithms := keys.Algorithms()
	if !slices.Contains(algorithms, o.Algorithm) {
		algorithms = append(algorithms, o.Algorithm)
	}
	document, err := json.Marshal(struct {
		Issuer                   string            `json:"issuer"`
		TokenEndpoint            string            `json:"token_endpoint"`
		JWKSetURI                string            `json:"jwks_uri"`
		RevocationEndpoint       string            `json:"revocation_endpoint"`
		IntrospectionEndpoint    string            `json:"introspection_endpoint"`
		GrantTypes               []string          `json:"grant_types_supported"`
		ResponseTypes            []string          `json:"response_types_supported"`
		Scopes                   []string          `json:"scopes_supported"`
		TokenAuthMethods         []string          `json:"token_endpoint_auth_methods_supported"`
		RevocationAuthMethods    []string          `json:"revocation_endpoint_auth_methods_supported"`
		IntrospectionAuthMethods []string          `json:"introspection_endpoint_auth_methods_supported"`
		SubjectTypes             []string          `json:"subject_types_supported"`
		SigningAlgorithms        []token.Algorithm `json:"id_token_signing_alg_values_supported"`
	}{
		o.URL, root + o.TokenPath, root + jwksPath, root + o.TokenPath + "/revoke", root + o.TokenPath + "/introspect",
		[]string{clientCredentials}, []string{}, append([]string{}, o.Scopes...), methods, methods, methods,
		[]string{"public"}, algorithms,
	})
	if err != nil {
		panic(fmt.Sprintf("BUG: issuer: write the metadata: %v", err))
	}
	return document
}

// jsonText is text as a JSON string.
func jsonText(text string) []byte {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(fmt.Sprintf("BUG: issuer: write a string: %v", err))
	}
	return quoted
}
