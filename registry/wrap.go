package registry

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"postern/secret"
)

// Private keys are wrapped by a data key, and the data key by the master key, both with
// AES-256-GCM. So the master key can change without touching a signing key, and a copy of
// the store without the master key opens nothing.

const (
	dataKeySize = 32

	wrappedByMaster = "master"
	wrappedByNone   = "none"
)

// sealer wraps private keys with the data key, or says why it cannot.
type sealer struct {
	id   string
	aead cipher.AEAD
	err  error
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal returns base64 of nonce and ciphertext. context binds it to its row: moved to another
// one, it does not open.
func seal(aead cipher.AEAD, random io.Reader, plain []byte, context string) (string, error) {
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	if _, err := io.ReadFull(random, nonce); err != nil {
		return "", fmt.Errorf("read randomness: %w", err)
	}
	return base64.StdEncoding.EncodeToString(aead.Seal(nonce, nonce, plain, []byte(context))), nil
}

func unseal(aead cipher.AEAD, text, context string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) < aead.NonceSize() {
		return nil, errors.New("it is damaged")
	}
	return aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], []byte(context))
}

func (s sealer) seal(random io.Reader, k Key) (string, error) {
	if s.err != nil {
		return "", s.err
	}
	return seal(s.aead, random, []byte(k.Private.Reveal()), k.ID)
}

func (s sealer) unseal(text, keyID string) (secret.Secret, error) {
	if s.err != nil {
		return "", s.err
	}
	plain, err := unseal(s.aead, text, keyID)
	return secret.Secret(plain), err
}

// dataKeyContext is the associated data of a wrapped data key.
func dataKeyContext(id string) string { return "postern data key " + id }

// loadDataKey fills r.sealer. On conn, under the write lock, it makes the data key when there
// is none, and wraps one that lay open when a master key has been configured since.
func (r *Registry) loadDataKey(ctx context.Context, conn *sql.Conn) (wrapped bool, err error) {
	var id, wrapping, material string
	err = conn.QueryRowContext(ctx, `SELECT id, wrapping, material FROM data_key ORDER BY created_at DESC, id DESC LIMIT 1`).Scan(&id, &wrapping, &material)
	if errors.Is(err, sql.ErrNoRows) {
		return false, r.makeDataKey(ctx, conn)
	}
	if err != nil {
		return false, err
	}
	plain, err := openDataKey(id, wrapping, material, r.options.MasterKey)
	if errors.Is(err, errNoMaster) || errors.Is(err, errAnotherMaster) {
		r.sealer = sealer{err: err}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := r.useDataKey(id, plain); err != nil || wrapping == wrappedByMaster {
		return false, err
	}
	if r.options.MasterKey == "" {
		r.warnUnwrapped()
		return false, nil
	}
	text, err := wrapDataKey(id, plain, r.options.MasterKey, r.options.Random)
	if err != nil {
		return false, err
	}
	_, err = conn.ExecContext(ctx, `UPDATE data_key SET wrapping = $1, material = $2 WHERE id = $3`, wrappedByMaster, text, id)
	return true, err
}

func (r *Registry) makeDataKey(ctx context.Context, conn *sql.Conn) error {
	id, err := r.newID()
	if err != nil {
		return err
	}
	plain := make([]byte, dataKeySize)
	if _, err := io.ReadFull(r.options.Random, plain); err != nil {
		return fmt.Errorf("read randomness: %w", err)
	}
	wrapping, material := wrappedByNone, base64.StdEncoding.EncodeToString(plain)
	if r.options.MasterKey != "" {
		wrapping = wrappedByMaster
		if material, err = wrapDataKey(id, plain, r.options.MasterKey, r.options.Random); err != nil {
			return err
		}
	} else {
		r.warnUnwrapped()
	}
	if _, err := conn.ExecContext(ctx, `INSERT INTO data_key (id, wrapping, material, created_at) VALUES ($1, $2, $3, $4)`, id, wrapping, material, int64(r.now())); err != nil {
		return err
	}
	return r.useDataKey(id, plain)
}

var (
	errNoMaster = errors.New("the signing keys in this store are wrapped: set keys.master_key_file to the file of their master key")
	// errAnotherMaster: the store was rewrapped since, or damaged.
	errAnotherMaster = errors.New("the signing keys in this store are wrapped by another master key: set keys.master_key_file to the file of that one")
)

// openDataKey returns the data key in the clear, or errNoMaster or errAnotherMaster.
func openDataKey(id, wrapping, material string, master secret.Secret) ([]byte, error) {
	if wrapping == wrappedByNone {
		plain, err := base64.StdEncoding.DecodeString(material)
		if err != nil {
			return nil, errors.New("read the data key: it is damaged")
		}
		return plain, nil
	}
	if master == "" {
		return nil, errNoMaster
	}
	aead, err := newAEAD([]byte(master.Reveal()))
	if err != nil {
		return nil, err
	}
	plain, err := unseal(aead, material, dataKeyContext(id))
	if err != nil {
		return nil, errAnotherMaster
	}
	return plain, nil
}

func wrapDataKey(id string, plain []byte, master secret.Secret, random io.Reader) (string, error) {
	aead, err := newAEAD([]byte(master.Reveal()))
	if err != nil {
		return "", err
	}
	return seal(aead, random, plain, dataKeyContext(id))
}

func (r *Registry) useDataKey(id string, plain []byte) error {
	if len(plain) != dataKeySize {
		return errors.New("read the data key: it is damaged")
	}
	aead, err := newAEAD(plain)
	r.sealer = sealer{id: id, aead: aead}
	return err
}

func (r *Registry) warnUnwrapped() {
	r.options.Log.Warn("no master key: whoever reads the store's file can sign tokens; set keys.master_key_file")
}
