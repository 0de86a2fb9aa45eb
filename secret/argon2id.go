package secret

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// What HashArgon2id makes: the second recommendation of OWASP, some 20 ms of one core.
const (
	argon2idMemory  = 19456 // KiB
	argon2idTime    = 2
	argon2idThreads = 1
	argon2idSalt    = 16
	argon2idKey     = 32
)

// Bounds on hashes that another program made: one look at a secret must not cost more than
// about a tenth of a second and 64 MiB.
const (
	maxArgon2idMemory  = 64 << 10 // KiB
	maxArgon2idTime    = 10
	maxArgon2idThreads = 4
	minBcryptCost      = 4
	maxBcryptCost      = 14
)

// HashArgon2id returns the PHC string of text under a new salt, for secrets of another
// maker that were given in clear: they may be guessable, so their plain digest must not be
// kept. It takes some 20 ms.
func HashArgon2id(text []byte, random io.Reader) (Secret, error) {
	salt := make([]byte, argon2idSalt)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", fmt.Errorf("read randomness: %w", err)
	}
	key := argon2.IDKey(text, salt, argon2idTime, argon2idMemory, argon2idThreads, argon2idKey)
	return Secret(fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argon2idMemory, argon2idTime, argon2idThreads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))), nil
}

// Argon2id is a PHC string taken apart.
type Argon2id struct {
	Memory  uint32 // KiB
	Time    uint32
	Threads uint8
	Salt    []byte
	Key     []byte
}

// ParseArgon2id takes the PHC string phc apart. Parameters beyond the bounds are refused with
// an error that says which; no error quotes salt or key.
func ParseArgon2id(phc Secret) (Argon2id, error) {
	parts := strings.Split(string(phc), "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return Argon2id{}, errors.New("it is no PHC string of argon2id ($argon2id$v=19$m=…,t=…,p=…$salt$hash)")
	}
	if parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return Argon2id{}, fmt.Errorf("its version of argon2id is not %d", argon2.Version)
	}
	parameters := strings.Split(parts[3], ",")
	if len(parameters) != 3 {
		return Argon2id{}, errors.New("its parameters are not m=…,t=…,p=…")
	}
	var numbers [3]uint64
	for i, bound := range []struct {
		name string
		max  uint64
	}{{"m", maxArgon2idMemory}, {"t", maxArgon2idTime}, {"p", maxArgon2idThreads}} {
		text, named := strings.CutPrefix(parameters[i], bound.name+"=")
		n, err := strconv.ParseUint(text, 10, 32)
		if !named || err != nil || n == 0 {
			return Argon2id{}, errors.New("its parameters are not m=…,t=…,p=…")
		}
		if n > bound.max {
			return Argon2id{}, fmt.Errorf("its parameter %s=%d is above %d: hash the secret again with less, or rotate it", bound.name, n, bound.max)
		}
		numbers[i] = n
	}
	salt, badSalt := base64.RawStdEncoding.Strict().DecodeString(parts[4])
	key, badKey := base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if badSalt != nil || badKey != nil || strings.ContainsAny(parts[4]+parts[5], "\r\n") {
		return Argon2id{}, errors.New("its salt or hash is not base64 without padding")
	}
	if len(salt) < 8 || len(salt) > 64 || len(key) < 16 || len(key) > 64 {
		return Argon2id{}, errors.New("its salt is not 8 to 64 bytes long, or its hash not 16 to 64")
	}
	if numbers[0] < 8*numbers[2] {
		return Argon2id{}, errors.New("its parameter m is less than 8 times p")
	}
	return Argon2id{uint32(numbers[0]), uint32(numbers[1]), uint8(numbers[2]), salt, key}, nil
}

// CheckBcrypt refuses what is no bcrypt hash ($2a$, $2b$ or $2y$), and a cost that is beyond
// the bounds. No error quotes the hash.
func CheckBcrypt(hash Secret) error {
	text := string(hash)
	if len(text) != 60 || text[:2] != "$2" || !strings.Contains("aby", text[2:3]) || text[3] != '$' || text[6] != '$' ||
		strings.Trim(text[7:], "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return errors.New("it is no bcrypt hash ($2a$, $2b$ or $2y$, a cost, and 53 characters)")
	}
	cost, err := strconv.ParseUint(text[4:6], 10, 8)
	if err != nil || cost < minBcryptCost {
		return errors.New("its cost is no number from 04 up")
	}
	if cost > maxBcryptCost {
		return fmt.Errorf("its cost %d is above %d: hash the secret again with less, or rotate it", cost, maxBcryptCost)
	}
	return nil
}

// MatchesArgon2id reports whether the PHC string phc is text's. One that costs more than the
// bounds allow is not computed, and matches nothing.
func MatchesArgon2id(phc Secret, text []byte) bool {
	want, err := ParseArgon2id(phc)
	if err != nil {
		return false
	}
	got := argon2.IDKey(text, want.Salt, want.Time, want.Memory, want.Threads, uint32(len(want.Key)))
	return subtle.ConstantTimeCompare(got, want.Key) == 1
}

// MatchesBcrypt is MatchesArgon2id for a bcrypt hash. bcrypt looks at the first 72 bytes only,
// here as wherever the hash was made.
func MatchesBcrypt(hash Secret, text []byte) bool {
	return CheckBcrypt(hash) == nil && bcrypt.CompareHashAndPassword([]byte(hash), text) == nil
}
