package proxy

import (
	"bytes"
	"regexp"
	"testing"

	"postern/answer"
)

// FuzzAuthorization reads one or two Authorization lines as they stand on the wire and
// compares what bearer makes of them with a model in regular expressions.
func FuzzAuthorization(f *testing.F) {
	for _, value := range []string{
		"", " ", "\t", " Bearer abc.def.ghi", "bearer x", "BEARER x", " bEaReR   x \t", "Bearer", "Bearer ", "Bearer\tx", "Bearer \tx", "Bearer x y",
		"Bearer x,y", "Bearer x, Bearer y", "Bearer \"x\"", "Bearer=x", "Bearer,x", "Bearer/x", "Bearers x", "Beare x", "Basic dTpw", "Digest a=b", "x", "Bearer \xe9",
		"Bearer x\xc2\xa0", "\xc2\xa0Bearer x", "Bearer x\x00", "Bearer x\x7f", "Bearer x\r\n y", "x\r\nAuthorization: Bearer y", "Bearer x\ny", "Bearer ====", "Bearer -._~+/9Az=",
		`Bearer {"payload":"a b","signature":"c"}`, "Bearer {", "Bearer x{", "ſearer x", "Bearer\vx", "Bearer Bearer x",
	} {
		f.Add([]byte(value), []byte(" Bearer other"), false)
		f.Add([]byte(value), []byte("Basic dTpw"), true)
	}
	f.Add([]byte("Bearer x"), []byte(""), true)
	var (
		control = regexp.MustCompile(`[\x00-\x08\x0a-\x1f\x7f]`)
		good    = regexp.MustCompile(`(?is)^[ \t]*bearer +([-._~+/=a-z0-9]+|\{.*?)[ \t]*$`)
		scheme  = regexp.MustCompile("(?is)^[ \t]*bearer(?:[^-!#$%&'*+.^_`|~a-z0-9]|$)")
	)
	classifier, err := newClassifier(nil)
	if err != nil {
		f.Fatal(err)
	}
	front := &Front{}
	f.Fuzz(func(t *testing.T, first, second []byte, two bool) {
		lines, want := "Authorization:"+string(first)+"\r\n", good.FindSubmatch(first)
		values := [][]byte{first}
		if two {
			lines += "authorization:" + string(second) + "\r\n"
			values, want = append(values, second), nil
		}
		x := &exchange{state: &state{Settings: Settings{Realm: "R"}}}
		h := &x.head
		if _, ok := h.checkFields([]byte(lines+"\r\n"), 100, classifier); !ok {
			if !control.Match(bytes.Join(values, nil)) {
				t.Fatalf("the head is refused: %q", lines)
			}
			return
		}
		raw, refusal, ok := front.bearer(x)
		if ok {
			if h.authorizations != 1 || len(raw) == 0 || raw[0] != '{' && bytes.ContainsAny(raw, " \t,\"") {
				t.Fatalf("accepted %q of %d fields", raw, h.authorizations)
			}
		} else if raw != nil || refusal.Challenge == "" {
			t.Fatalf("refused with %q, %+v", raw, refusal)
		}
		// A line end in a value makes other lines, which the model does not read.
		if bytes.ContainsAny(bytes.Join(values, nil), "\r\n") {
			return
		}
		if control.Match(bytes.Join(values, nil)) {
			t.Fatalf("control characters pass: %q", lines)
		}
		if h.authorizations != len(values) {
			t.Fatalf("%d fields of %d", h.authorizations, len(values))
		}
		if ok != (want != nil) || ok && !bytes.Equal(raw, want[1]) {
			t.Fatalf("got %q, %v; the model %q", raw, ok, want)
		}
		if reason := (answer.InvalidRequest); !ok {
			if !two && !scheme.Match(first) {
				reason = answer.MissingToken
			}
			if refusal.Reason != reason {
				t.Fatalf("got %v, want %v", refusal.Reason, reason)
			}
		}
	})
}
