package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"postern/registry"
	"postern/secret"
)

// clientFields are what a client's row can have. The first four are the secret, one of them.
func clientFields() []string {
	return []string{"client_secret", "client_secret_sha256", "client_secret_bcrypt", "client_secret_argon2id",
		"organization_id", "client_id", "application", "environment"}
}

const (
	secretFields      = 4
	fieldOrganization = 4
	maxImportedSecret = 1024 // bytes
)

// clientShape is that of clients; organization: a row needs no organization_id.
func clientShape(organization bool) importShape {
	s := importShape{what: "clients", names: clientFields()}
	s.needed = s.names[fieldOrganization:]
	if organization {
		s.needed = s.needed[1:]
	}
	return s
}

// clear reports whether the row's secret is in clear, where hash says what client_secret holds.
func (r importRow) clear(hash string) bool { return hash == "plain" && r.fields[0] != "" }

// client is what the row says, or its problem. A secret in clear that has not our form is
// left to be hashed.
func (r importRow) client(hash string) (c registry.ImportedClient, problem string) {
	c = registry.ImportedClient{
		OrganizationID: r.fields[4].Reveal(), ID: r.fields[5].Reveal(), Application: r.fields[6].Reveal(), Environment: r.fields[7].Reveal(),
	}
	given := -1
	for i, value := range r.fields[:secretFields] {
		if value != "" && given >= 0 {
			return c, "it has several of client_secret, client_secret_sha256, client_secret_bcrypt and client_secret_argon2id"
		}
		if value != "" {
			given = i
		}
	}
	if given < 0 {
		return c, "it has none of client_secret, client_secret_sha256, client_secret_bcrypt and client_secret_argon2id"
	}
	name, text := clientFields()[given], r.fields[given].Reveal()
	kind := hash
	if given > 0 {
		kind = strings.TrimPrefix(name, "client_secret_")
	}
	switch kind {
	case "plain":
		c.WellFormed, problem = judgeSecret(text)
		switch {
		case problem != "":
			return c, name + ": it " + problem
		case c.WellFormed:
			c.Kind, c.Digest = registry.SHA256, secret.DigestOf([]byte(text))
		default:
			c.Kind = registry.Argon2id
		}
	case "sha256":
		c.Kind = registry.SHA256
		digest, ok := digestFrom(text)
		if !ok {
			return c, name + ": it is no SHA-256 digest in hex or base64"
		}
		if ofNothing(digest) {
			return c, name + ": it is the digest of nothing, or of a line end"
		}
		c.Digest = digest
	case "bcrypt":
		c.Kind, c.Hash = registry.Bcrypt, r.fields[given]
	case "argon2id":
		c.Kind, c.Hash = registry.Argon2id, r.fields[given]
	}
	return c, ""
}

// judgeSecret reports whether a secret in clear has our form, or why it cannot be anybody's.
func judgeSecret(text string) (wellFormed bool, problem string) {
	switch {
	case secret.WellFormed([]byte(text)):
		return true, ""
	case strings.HasPrefix(text, secret.Prefix):
		return false, "begins as a secret of postern does, and is none: it is incomplete or mistyped"
	case len(text) > maxImportedSecret:
		return false, fmt.Sprintf("is longer than %d bytes", maxImportedSecret)
	}
	return false, ""
}

// digestFrom reads a SHA-256 digest in hex, or in base64 of either alphabet, padded or not.
func digestFrom(text string) (d secret.Digest, ok bool) {
	decode := hex.DecodeString
	if len(text) != hex.EncodedLen(len(d)) {
		decode = base64.RawStdEncoding.Strict().DecodeString
		if strings.ContainsAny(text, "-_") {
			decode = base64.RawURLEncoding.Strict().DecodeString
		}
		text = strings.TrimSuffix(text, "=")
	}
	raw, err := decode(text)
	if err != nil || len(raw) != len(d) {
		return d, false
	}
	return secret.Digest(raw), true
}

// ofNothing reports whether d is what sha256sum says of an empty input or of a line end alone:
// of a file that was not written, or a variable that was not set.
func ofNothing(d secret.Digest) bool {
	return slices.ContainsFunc([]string{"", "\n", "\r\n"}, func(text string) bool { return d == secret.DigestOf([]byte(text)) })
}
