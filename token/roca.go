package token

import "math/big"

// factorable reports whether n looks like a modulus that Infineon's RSALib made
// (CVE-2017-15361, "ROCA"), which can be factored: its primes, and so n, are powers of
// 65537 modulo each small prime. One in a billion of other moduli looks like that too.
func factorable(n *big.Int) bool {
	for _, prime := range [...]uint64{3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71,
		73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167} {
		residue := new(big.Int).Mod(n, new(big.Int).SetUint64(prime)).Uint64()
		power := uint64(1)
		for power != residue {
			power = power * 65537 % prime
			if power == 1 {
				return false
			}
		}
	}
	return true
}
