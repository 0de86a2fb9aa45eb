// Package secret holds values that cannot print themselves, and the format of
// client secrets.
//
// A client secret is 256 random bits with a recognizable prefix and a checksum:
// scanners find a leaked one, and a mistyped one is refused before any look-up.
// Nothing here does I/O. Start reading at Secret.
package secret

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is text that must not be shown: every format verb, slog and JSON print
// the same word. It is safe for concurrent use.
type Secret string

// String says "[redacted]".
func (Secret) String() string { return redacted }

// GoString says "[redacted]" (the %#v verb).
func (Secret) GoString() string { return redacted }

// Format says "[redacted]" under every verb, so that %x cannot spell it out either.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue says "[redacted]" to slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText says "[redacted]" to JSON, YAML and XML.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Reveal returns the text itself. A test lists its callers.
func (s Secret) Reveal() string { return string(s) }

const (
	// Prefix begins every client secret that postern makes.
	Prefix = "pst_"

	randomSize   = 32
	checksumSize = 4
)

// Len is the length of a client secret in characters (base64 without padding: 36 bytes make 48).
const Len = len(Prefix) + (randomSize+checksumSize)*4/3

// New makes a client secret from 256 bits of random.
func New(random io.Reader) (Secret, error) {
	raw := make([]byte, randomSize, randomSize+checksumSize)
	if _, err := io.ReadFull(random, raw); err != nil {
		return "", fmt.Errorf("read randomness: %w", err)
	}
	raw = binary.BigEndian.AppendUint32(raw, crc32.ChecksumIEEE(raw))
	return Secret(Prefix + base64.RawURLEncoding.EncodeToString(raw)), nil
}

// WellFormed reports whether text can be a client secret that New made: prefix,
// length, alphabet and checksum. It says nothing about whether the secret is known.
func WellFormed(text []byte) bool {
	if len(text) != Len || !bytes.HasPrefix(text, []byte(Prefix)) {
		return false
	}
	var raw [randomSize + checksumSize]byte
	n, err := base64.RawURLEncoding.Strict().Decode(raw[:], text[len(Prefix):])
	if err != nil || n != len(raw) {
		return false
	}
	return binary.BigEndian.Uint32(raw[randomSize:]) == crc32.ChecksumIEEE(raw[:randomSize])
}

// Digest is what the store keeps of a client secret: its plain SHA-256. With 256
// random bits there is nothing to brute-force, so no slow hash is needed.
type Digest [sha256.Size]byte

// DigestOf returns the digest of a client secret.
func DigestOf(text []byte) Digest { return sha256.Sum256(text) }

// Equal compares in constant time.
func (d Digest) Equal(other Digest) bool { return subtle.ConstantTimeCompare(d[:], other[:]) == 1 }
