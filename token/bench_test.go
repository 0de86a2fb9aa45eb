package token

import "testing"

func BenchmarkVerify(b *testing.B) {
	for _, a := range algorithms {
		b.Run(string(a), func(b *testing.B) {
			k := newKey(b, a)
			keys := NewKeySet(k.Public())
			raw := []byte(sign(b, k, good()))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Verify(raw, keys, expect, start); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParse is what Verify does beside the signature.
func BenchmarkParse(b *testing.B) {
	raw := []byte(sign(b, newKey(b, ES256), good()))
	b.ReportAllocs()
	for b.Loop() {
		j, err := parse(raw)
		if err != nil || j.expect(expect, start) != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCrypto is what golang-jwt's signing method alone takes.
func BenchmarkCrypto(b *testing.B) {
	for _, a := range algorithms {
		b.Run(string(a), func(b *testing.B) {
			k := newKey(b, a)
			j, err := parse([]byte(sign(b, k, good())))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := k.method.Verify(string(j.input), j.signature, k.public.Key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	for _, a := range algorithms {
		b.Run(string(a), func(b *testing.B) {
			k, c := newKey(b, a), good()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.Sign(c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
