package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/golang-jwt/jwt/v5"

	"postern/secret"
)

// Algorithm is how a key signs: the header parameter alg (RFC 7518 §3.1, RFC 8037 §3.1).
// There is no symmetric one, and none can be configured.
type Algorithm string

// The algorithms.
const (
	ES256 Algorithm = "ES256"
	RS256 Algorithm = "RS256"
	EdDSA Algorithm = "EdDSA"
)

// RSA keys below 2,048 bits are too weak (RFC 7518 §3.3); above 8,192 verifying one
// token costs a millisecond.
const (
	minModulus = 2048
	maxModulus = 8192
)

// method is golang-jwt's half of a: nil for anything but the three.
func (a Algorithm) method() jwt.SigningMethod {
	switch a {
	case ES256:
		return jwt.SigningMethodES256
	case RS256:
		return jwt.SigningMethodRS256
	case EdDSA:
		return jwt.SigningMethodEdDSA
	}
	return nil
}

// SigningKey is a private key with its identifier. It is immutable and safe for
// concurrent use; no verb prints the private part.
type SigningKey struct {
	private crypto.Signer
	public  PublicKey
	method  jwt.SigningMethod
	// The JOSE headers, of an access token and of an assertion: encoded, and the dot after them.
	head, assertionHead string
}

// Format says "[redacted]" under every verb: the private part must not reach a log.
func (k *SigningKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[redacted]") }

// MarshalText says "[redacted]" to JSON and slog.
func (k *SigningKey) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// GenerateSigningKey makes a key: RSA of 2,048 bits, P-256 or Ed25519.
func GenerateSigningKey(a Algorithm, random io.Reader) (*SigningKey, error) {
	var private crypto.Signer
	var err error
	switch a {
	case ES256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), random)
	case RS256:
		private, err = rsa.GenerateKey(random, minModulus)
	case EdDSA:
		_, private, err = ed25519.GenerateKey(random)
	default:
		return nil, errors.New("generate key: the algorithm is none of ES256, RS256 and EdDSA")
	}
	if err != nil {
		return nil, fmt.Errorf("generate %s key: %w", a, err)
	}
	return newSigningKey(a, private)
}

// ParseSigningKey reads a PKCS #8 private key that signs with a. It refuses an RSA key
// outside 2,048 to 8,192 bits, another curve than P-256, and a key of another algorithm.
func ParseSigningKey(a Algorithm, der []byte) (*SigningKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		// The parser's own words can quote the input.
		return nil, errors.New("parse key: not a PKCS #8 private key")
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("parse key: a key of this kind cannot sign")
	}
	return newSigningKey(a, private)
}

func newSigningKey(a Algorithm, private crypto.Signer) (*SigningKey, error) {
	public := PublicKey{Algorithm: a, Key: private.Public()}
	if err := public.check(); err != nil {
		return nil, fmt.Errorf("use key for %s: %w", a, err)
	}
	public.ID = public.thumbprint()
	head := func(typ string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"`+string(a)+`","kid":"`+public.ID+`","typ":"`+typ+`"}`)) + "."
	}
	return &SigningKey{
		private: private,
		public:  public,
		method:  a.method(),

		head:          head(mediaType),
		assertionHead: head(assertionType),
	}, nil
}

// ID is the key's thumbprint (RFC 7638), which is its kid.
func (k *SigningKey) ID() string { return k.public.ID }

// Algorithm is the one that the key signs with.
func (k *SigningKey) Algorithm() Algorithm { return k.public.Algorithm }

// Public is the half that verifies.
func (k *SigningKey) Public() PublicKey { return k.public }

// MarshalPKCS8 is the inverse of ParseSigningKey.
func (k *SigningKey) MarshalPKCS8() (secret.Secret, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return "", fmt.Errorf("marshal key: %w", err)
	}
	return secret.Secret(der), nil
}

// PublicKey verifies what one signing key signed, with that key's algorithm alone.
type PublicKey struct {
	ID        string // kid
	Algorithm Algorithm
	Key       crypto.PublicKey // *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey
	NotAfter  int64            // seconds; tokens are refused after it; 0: no end
}

// check says whether the key is one that the algorithm can use safely.
func (p PublicKey) check() error {
	switch key := p.Key.(type) {
	case *ecdsa.PublicKey:
		if p.Algorithm != ES256 {
			break
		}
		if key.Curve != elliptic.P256() {
			return errors.New("the curve is not P-256")
		}
		return nil
	case *rsa.PublicKey:
		if p.Algorithm != RS256 {
			break
		}
		if bits := key.N.BitLen(); bits < minModulus || bits > maxModulus {
			return fmt.Errorf("the RSA modulus has %d bits, outside %d to %d", bits, minModulus, maxModulus)
		}
		if key.N.Bit(0) == 0 || key.E < 3 || key.E&1 == 0 {
			return errors.New("the RSA modulus or exponent is even or too small")
		}
		if factorable(key.N) {
			return errors.New("the RSA modulus can be factored (CVE-2017-15361)")
		}
		return nil
	case ed25519.PublicKey:
		if p.Algorithm != EdDSA || len(key) != ed25519.PublicKeySize {
			break
		}
		return nil
	}
	return errors.New("the key is for another algorithm")
}

// required appends the members that RFC 7638 §3.2 hashes, in its order, without braces.
func (p PublicKey) required(dst []byte) []byte {
	member := func(name string, value []byte) {
		dst = append(dst, `"`+name+`":"`...)
		dst = base64.RawURLEncoding.AppendEncode(dst, value)
		dst = append(dst, '"')
	}
	switch key := p.Key.(type) {
	case *ecdsa.PublicKey:
		point, err := key.Bytes() // 4, x, y
		if err != nil || len(point) != 65 {
			return dst
		}
		dst = append(dst, `"crv":"P-256","kty":"EC",`...)
		member("x", point[1:33])
		dst = append(dst, ',')
		member("y", point[33:])
	case *rsa.PublicKey:
		member("e", big.NewInt(int64(key.E)).Bytes())
		dst = append(dst, `,"kty":"RSA",`...)
		member("n", key.N.Bytes())
	case ed25519.PublicKey:
		dst = append(dst, `"crv":"Ed25519","kty":"OKP",`...)
		member("x", key)
	}
	return dst
}

func (p PublicKey) thumbprint() string {
	sum := sha256.Sum256(append(p.required([]byte{'{'}), '}'))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
