package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// credentials are tokens of one algorithm, ready to send, and the key that verifies them.
type credentials struct {
	organization, client string
	publicPEM            string // file
	tokens               string // file, one a line
	spare                string // one more, for checks: it is not among tokens
}

// credentials returns the tokens of an algorithm, made on the first call: by postern, or, in a run without any
// postern row, by this program with a key of its own.
func (b *bench) credentials(ctx context.Context, algorithm string) (*credentials, error) {
	if c := b.keys[algorithm]; c != nil {
		return c, nil
	}
	var tokens []string
	var key crypto.PublicKey
	c := &credentials{}
	if b.builtin {
		s, err := newSigner(algorithm)
		if err != nil {
			return nil, err
		}
		c.organization, c.client, key = "acme", "bench", s.key.Public()
		for range b.tokens + 1 {
			token, err := s.sign(c.organization, c.client)
			if err != nil {
				return nil, err
			}
			tokens = append(tokens, token)
		}
	} else {
		g, err := b.gate(ctx, algorithm, algorithm, b.temp)
		if err != nil {
			return nil, err
		}
		c.organization, c.client = g.organization, g.client
		if tokens, err = b.issueMany(ctx, g, b.tokens+1); err != nil {
			return nil, err
		}
		if key, err = g.publicKey(ctx, tokens[0]); err != nil {
			return nil, err
		}
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the public key: %w", err)
	}
	c.spare = tokens[0]
	if c.publicPEM, err = b.write(algorithm+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))); err != nil {
		return nil, err
	}
	if c.tokens, err = b.write(algorithm+".tokens", strings.Join(tokens[1:], "\n")+"\n"); err != nil {
		return nil, err
	}
	b.keys[algorithm] = c
	return c, nil
}

// issueMany asks for n tokens over 64 connections. The first failure ends it.
func (b *bench) issueMany(ctx context.Context, g *gate, n int) ([]string, error) {
	const workers = 64
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(n)*5*time.Millisecond)
	defer cancel()
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = workers
	tokens := make([]string, n)
	next := make(chan int)
	failed := make(chan error, workers)
	var group sync.WaitGroup
	for range min(workers, n) {
		group.Go(func() {
			for i := range next {
				var err error
				if tokens[i], err = g.issue(ctx); err != nil {
					failed <- err
					cancel()
					return
				}
			}
		})
	}
feed:
	for i := range n {
		if i > 0 && i%5000 == 0 {
			b.say("issued %s of %s %s tokens", thousands(float64(i)), thousands(float64(n)), g.algorithm)
		}
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	group.Wait()
	select {
	case err := <-failed:
		return nil, err
	default:
		return tokens, ctx.Err()
	}
}

// publicKey finds in g's JWK Set (RFC 7517) the key that token names.
func (g *gate) publicKey(ctx context.Context, token string) (crypto.PublicKey, error) {
	encoded, _, _ := strings.Cut(token, ".")
	header, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("read the token's header: %w", err)
	}
	type jwk struct {
		Type  string `json:"kty"`
		Curve string `json:"crv"`
		ID    string `json:"kid"`
		X     string `json:"x"`
		Y     string `json:"y"`
		N     string `json:"n"`
		E     string `json:"e"`
	}
	var named jwk
	if err := json.Unmarshal(header, &named); err != nil {
		return nil, fmt.Errorf("read the token's header: %w", err)
	}
	document, err := get(ctx, g.url+"/.well-known/jwks.json", "")
	if err != nil {
		return nil, fmt.Errorf("read the JWK Set: %w", err)
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal([]byte(document.body), &set); err != nil {
		return nil, fmt.Errorf("read the JWK Set: %w", err)
	}
	i := slices.IndexFunc(set.Keys, func(k jwk) bool { return k.ID == named.ID })
	if i < 0 {
		return nil, errors.New("read the JWK Set: the key of a fresh token is not in it")
	}
	k := set.Keys[i]
	bytesOf := func(s string) []byte {
		raw, e := base64.RawURLEncoding.DecodeString(s)
		err = errors.Join(err, e)
		return raw
	}
	var key crypto.PublicKey
	switch k.Type + k.Curve {
	case "ECP-256": // RFC 7518 §6.2.1: x and y have the full 32 bytes
		point := slices.Concat([]byte{4}, bytesOf(k.X), bytesOf(k.Y))
		if err == nil {
			key, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		}
	case "RSA":
		n, e := new(big.Int).SetBytes(bytesOf(k.N)), new(big.Int).SetBytes(bytesOf(k.E))
		key = &rsa.PublicKey{N: n, E: int(e.Int64())}
	default:
		return nil, fmt.Errorf("read the JWK Set: key type %q, curve %q is not known here", k.Type, k.Curve)
	}
	if err != nil {
		return nil, fmt.Errorf("read the JWK Set: %w", err)
	}
	return key, nil
}

// signer makes tokens of postern's shape for a run without postern.
type signer struct {
	algorithm string
	key       crypto.Signer
}

func newSigner(algorithm string) (*signer, error) {
	var key crypto.Signer
	var err error
	if algorithm == "RS256" {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, fmt.Errorf("generate a key: %w", err)
	}
	return &signer{algorithm, key}, nil
}

func (s *signer) sign(organization, client string) (string, error) {
	now := time.Now().Unix()
	header := fmt.Sprintf(`{"alg":%q,"kid":"bench","typ":"at+jwt"}`, s.algorithm)
	claims := fmt.Sprintf(`{"iss":"http://127.0.0.1","aud":"http://127.0.0.1","sub":"Client::%s","client_id":%q,"oid":%q,"jti":%q,"iat":%d,"exp":%d}`,
		client, client, organization, rand.Text(), now, now+7200)
	part := base64.RawURLEncoding.EncodeToString
	text := part([]byte(header)) + "." + part([]byte(claims))
	digest := sha256.Sum256([]byte(text))
	var signature []byte
	var err error
	switch key := s.key.(type) {
	case *ecdsa.PrivateKey: // RFC 7518 §3.4: two numbers of constant length, not DER
		var r, v *big.Int
		if r, v, err = ecdsa.Sign(rand.Reader, key, digest[:]); err == nil {
			signature = make([]byte, 64)
			r.FillBytes(signature[:32])
			v.FillBytes(signature[32:])
		}
	default:
		signature, err = key.Sign(rand.Reader, digest[:], crypto.SHA256)
	}
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return text + "." + part(signature), nil
}

// checkGuarded proves that base forwards a good token's request with the identity set and no Authorization, and
// answers 401 without a token and with one whose signature was changed.
func (c *credentials) checkGuarded(ctx context.Context, base string) error {
	forged := []byte(c.spare)
	at := strings.LastIndexByte(c.spare, '.') + 20 // inside the signature, where every bit counts
	forged[at] = map[bool]byte{true: 'B', false: 'A'}[forged[at] == 'A']
	var errs []error
	f := func(name, path, token string, status int, body string) {
		a, err := get(ctx, base+path, token)
		if err == nil && (a.status != status || body != "" && strings.TrimSpace(a.body) != body) {
			err = fmt.Errorf("answered %d %q, wanted %d %q", a.status, a.body[:min(len(a.body), 200)], status, body)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	f("good token", "", c.spare, http.StatusOK, strings.Repeat("x", bodySize))
	f("identity", "echo", c.spare, http.StatusOK, c.organization+" "+c.client)
	f("no token", "", "", http.StatusUnauthorized, "")
	f("forged token", "", string(forged), http.StatusUnauthorized, "")
	return errors.Join(errs...)
}
