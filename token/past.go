package token

import "time"

// VerifyPast is Verify for a token that may have expired: it says which record a token
// of ours belongs to, so that the record can be revoked by any of its tokens. It says
// nothing about whether the token may be used, and must never decide that. Of a token
// that is both expired and forged it says that it is forged.
func VerifyPast(raw []byte, keys *KeySet, e Expect, now time.Time) (Claims, error) {
	c, err := Verify(raw, keys, e, now)
	if err != error(Expired) {
		return c, err
	}
	j, err := parse(raw)
	if err != nil {
		return Claims{}, err
	}
	// As of its last second. Its key may have ended since then, but not before.
	return Verify(raw, keys, e, time.Unix(j.expires-1, 0))
}
