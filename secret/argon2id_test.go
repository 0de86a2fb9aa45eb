package secret

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/argon2"
)

func TestHashArgon2id(t *testing.T) {
	hash, err := HashArgon2id([]byte("hunter2"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(hash); !strings.HasPrefix(text, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("the parameters of %s are others", text)
	}
	got, err := ParseArgon2id(hash)
	if err != nil || got.Memory != 19456 || got.Time != 2 || got.Threads != 1 || len(got.Salt) != 16 || len(got.Key) != 32 {
		t.Fatalf("%+v, %v", got, err)
	}
	if !bytes.Equal(got.Key, argon2.IDKey([]byte("hunter2"), got.Salt, 2, 19456, 1, 32)) {
		t.Error("it is the hash of something else")
	}
	again, err := HashArgon2id([]byte("hunter2"), rand.Reader)
	if err != nil || again == hash {
		t.Errorf("the salt is the same (%v)", err)
	}
	if got, err := HashArgon2id([]byte("hunter2"), strings.NewReader("short")); err == nil || got != "" {
		t.Error("too little randomness makes a hash")
	}
	if shown := fmt.Sprintf("%v %+v %#v %x", hash, hash, hash, hash); shown != "[redacted] [redacted] [redacted] [redacted]" {
		t.Errorf("it prints itself: %s", shown)
	}
}

func TestParseArgon2idBounds(t *testing.T) {
	salt := base64.RawStdEncoding.EncodeToString(make([]byte, 16))
	key := base64.RawStdEncoding.EncodeToString(make([]byte, 32))
	f := func(phc, want string) {
		t.Helper()
		_, err := ParseArgon2id(Secret(phc))
		if got := fmt.Sprint(errors.Join(err)); want == "" && err != nil || want != "" && !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want %q", phc, got, want)
		}
		if err != nil && (strings.Contains(err.Error(), salt) || strings.Contains(err.Error(), key)) {
			t.Errorf("the error quotes the hash: %v", err)
		}
	}
	phc := func(parameters, salt, key string) string {
		return "$argon2id$v=19$" + parameters + "$" + salt + "$" + key
	}
	f(phc("m=65536,t=10,p=4", salt, key), "")
	f(phc("m=8,t=1,p=1", salt, key), "")
	f(phc("m=65537,t=1,p=1", salt, key), "its parameter m=65537 is above 65536")
	f(phc("m=64,t=11,p=1", salt, key), "its parameter t=11 is above 10")
	f(phc("m=64,t=1,p=5", salt, key), "its parameter p=5 is above 4")
	f(phc("m=31,t=1,p=4", salt, key), "its parameter m is less than 8 times p")
	for _, bad := range []string{"", "m=64,t=1", "t=1,m=64,p=1", "m=64,t=1,p=1,x=1", "m=64,t=0,p=1", "m=-64,t=1,p=1", "m=+64,t=1,p=1", "m=99999999999,t=1,p=1", "m=64, t=1,p=1"} {
		f(phc(bad, salt, key), "its parameters are not m=")
	}
	for _, bad := range []string{"?", salt + "=", salt[:20] + "\n" + salt[20:]} {
		f(phc("m=64,t=1,p=1", bad, key), "its salt or hash is not base64")
	}
	f(phc("m=64,t=1,p=1", "AAAA", key), "its salt is not 8 to 64 bytes long")
	f(phc("m=64,t=1,p=1", salt, "AAAA"), "its salt is not 8 to 64 bytes long")
	f("$argon2id$v=16$m=64,t=1,p=1$"+salt+"$"+key, "its version of argon2id is not 19")
	for _, bad := range []string{"", "hunter2", "$argon2i$v=19$m=64,t=1,p=1$" + salt + "$" + key, "x" + phc("m=64,t=1,p=1", salt, key), phc("m=64,t=1,p=1", salt, key) + "$"} {
		f(bad, "it is no PHC string of argon2id")
	}
}

func TestCheckBcrypt(t *testing.T) {
	const rest = "abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234"
	f := func(hash, want string) {
		t.Helper()
		err := CheckBcrypt(Secret(hash))
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", hash, err, want)
		}
	}
	for _, good := range []string{"$2a$04$", "$2b$10$", "$2y$14$"} {
		f(good+rest, "")
	}
	f("$2b$15$"+rest, "its cost 15 is above 14")
	f("$2b$99$"+rest, "its cost 99 is above 14")
	f("$2b$03$"+rest, "its cost is no number from 04 up")
	f("$2b$1x$"+rest, "its cost is no number from 04 up")
	for _, bad := range []string{"", "hunter2", "$2x$10$" + rest, "$3b$10$" + rest, "$2b$10$" + rest[1:], "$2b$10$" + rest + "0", "$2b$10$" + rest[1:] + "!", "$2b$10x" + rest, "$2bx10$" + rest} {
		f(bad, "it is no bcrypt hash")
	}
}
