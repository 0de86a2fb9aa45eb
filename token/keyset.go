package token

// KeySet is a set of public keys. It is immutable and safe for concurrent use.
type KeySet struct {
	keys     map[string]*PublicKey
	document []byte
}

// NewKeySet makes a set. A key that its algorithm cannot use safely, that has no
// identifier, or whose identifier an earlier key has, is left out.
func NewKeySet(keys ...PublicKey) *KeySet {
	s := &KeySet{keys: make(map[string]*PublicKey, len(keys)), document: []byte(`{"keys":[`)}
	for _, k := range keys {
		if k.check() != nil || !safeKeyID([]byte(k.ID)) || s.keys[k.ID] != nil {
			continue
		}
		if len(s.keys) > 0 {
			s.document = append(s.document, ',')
		}
		s.keys[k.ID] = &k
		s.document = append(s.document, '{')
		s.document = k.required(s.document)
		s.document = append(s.document, `,"alg":"`+string(k.Algorithm)+`","use":"sig","kid":"`+k.ID+`"}`...)
	}
	s.document = append(s.document, `]}`...)
	return s
}

// Lookup finds a key by its identifier.
func (s *KeySet) Lookup(kid string) (PublicKey, bool) {
	k, ok := s.keys[kid]
	if !ok {
		return PublicKey{}, false
	}
	return *k, true
}

// Len is the number of keys.
func (s *KeySet) Len() int { return len(s.keys) }

// Algorithms lists what the keys sign with, each once.
func (s *KeySet) Algorithms() []Algorithm {
	var all []Algorithm
	for _, a := range []Algorithm{ES256, RS256, EdDSA} {
		for _, k := range s.keys {
			if k.Algorithm == a {
				all = append(all, a)
				break
			}
		}
	}
	return all
}

// Document is the JWK Set (RFC 7517 §5). It holds public parts only. Do not change it.
func (s *KeySet) Document() []byte { return s.document }
