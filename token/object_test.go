package token

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestObject(t *testing.T) {
	f := func(name, data string, want map[string]string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			got, err := Object([]byte(data))
			if want == nil {
				if err == nil || got != nil {
					t.Errorf("accepted: %v", got)
				}
				return
			}
			if err != nil || len(got) != len(want) {
				t.Fatalf("got %s, %v", got, err)
			}
			for name, value := range want {
				if string(got[name]) != value {
					t.Errorf("%q: got %s, want %s", name, got[name], value)
				}
			}
		})
	}
	f("empty object", `{}`, map[string]string{})
	f("space everywhere", " \t\r\n{ \"a\" : [ 1 , { \"b\" : { } } , [ ] ] , \"c\" : null } \n", map[string]string{"a": `[ 1 , { "b" : { } } , [ ] ]`, "c": `null`})
	f("every value", `{"a":"x","b":-0.5e+10,"c":true,"d":false,"e":null,"f":[0,10,1E5],"g":{"h":{}}}`,
		map[string]string{"a": `"x"`, "b": `-0.5e+10`, "c": `true`, "d": `false`, "e": `null`, "f": `[0,10,1E5]`, "g": `{"h":{}}`})
	f("names unescaped", `{"\u0061\"\\\/\b\f\n\r\t\ud83d\ude00é":1}`, map[string]string{"a\"\\/\b\f\n\r\t😀é": `1`})
	f("same name in other objects", `{"a":{"a":[{"a":1},{"a":2}]},"b":{"a":1}}`, map[string]string{"a": `{"a":[{"a":1},{"a":2}]}`, "b": `{"a":1}`})
	f("names in two cases", `{"a":1,"A":2}`, map[string]string{"a": `1`, "A": `2`})

	f("nothing", ``, nil)
	f("space", ` `, nil)
	f("null", `null`, nil)
	f("array", `[]`, nil)
	f("string", `"a"`, nil)
	f("open", `{`, nil)
	f("open member", `{"a":1`, nil)
	f("trailing comma", `{"a":1,}`, nil)
	f("leading comma", `{,"a":1}`, nil)
	f("trailing comma in array", `{"a":[1,]}`, nil)
	f("no colon", `{"a" 1}`, nil)
	f("no value", `{"a":}`, nil)
	f("unquoted name", `{a:1}`, nil)
	f("single quotes", `{'a':1}`, nil)
	f("comment", `{/**/"a":1}`, nil)
	f("after it", `{} {}`, nil)
	f("byte order mark", "\xef\xbb\xbf{}", nil)
	f("NUL after it", "{}\x00", nil)
	f("control in string", "{\"a\":\"\x1f\"}", nil)
	f("bad escape", `{"a":"\x"}`, nil)
	f("short escape", `{"a":"\u12"}`, nil)
	f("lone high surrogate", `{"a":"\ud800"}`, nil)
	f("lone low surrogate", `{"a":"\udc00"}`, nil)
	f("high surrogate, then letter", `{"a":"\ud800\u0061"}`, nil)
	f("not UTF-8", "{\"a\":\"\xff\"}", nil)
	f("surrogate in UTF-8", "{\"a\":\"\xed\xa0\x80\"}", nil)
	f("overlong", "{\"a\":\"\xc0\xaf\"}", nil)
	f("leading zero", `{"a":01}`, nil)
	f("plus", `{"a":+1}`, nil)
	f("bare point", `{"a":.5}`, nil)
	f("no fraction", `{"a":1.}`, nil)
	f("no exponent", `{"a":1e}`, nil)
	f("minus alone", `{"a":-}`, nil)
	f("hexadecimal", `{"a":0x1}`, nil)
	f("word cut", `{"a":tru}`, nil)
	f("word long", `{"a":truely}`, nil)
	f("other space", "{\u00a0}", nil)

	f("repeated", `{"a":1,"a":1}`, nil)
	f("repeated, escaped", `{"a":1,"\u0061":1}`, nil)
	f("repeated, deep", `{"a":[[{"b":{"c":1,"d":2,"c":3}}]]}`, nil)
	f("repeated after a nested object", `{"a":1,"b":{"x":{},"y":[]},"a":2}`, nil)
	f("repeated empty name", `{"":1,"":2}`, nil)
}

func TestObjectLimits(t *testing.T) {
	nested := func(depth int) string {
		return strings.Repeat(`{"a":`, depth-1) + `{}` + strings.Repeat(`}`, depth-1)
	}
	many := func(n int) string {
		var b strings.Builder
		b.WriteByte('{')
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`"m` + string(rune('a'+i%26)) + strings.Repeat("x", i/26) + `":0`)
		}
		return b.String() + "}"
	}
	f := func(name, data string, want bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			text := []byte(data)
			began := time.Now()
			_, err := Object(text)
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Errorf("took %s", took)
			}
			if (err == nil) != want {
				t.Errorf("got %v", err)
			}
		})
	}
	f("32 levels", nested(32), true)
	f("32 levels with a value inside", strings.Replace(nested(32), "{}", `{"a":[]}`, 1), false)
	f("32 levels with a number inside", strings.Replace(nested(32), "{}", `{"a":1}`, 1), true)
	f("33 levels", nested(33), false)
	f("33 levels of arrays", `{"a":`+strings.Repeat("[", 32)+strings.Repeat("]", 32)+`}`, false)
	f("10,000 levels", nested(10_000), false)
	f("10,000 levels of arrays, open", `{"a":`+strings.Repeat("[", 10_000), false)
	f("1,000 members", many(1000), true)
	f("1,001 members", many(1001), false)
	f("1,000 members in all", `{"a":`+many(499)+`,"b":`+many(499)+`}`, true)
	f("1,001 members in all", `{"a":`+many(499)+`,"b":`+many(500)+`}`, false)
	f("a million members", `{"a":[`+strings.Repeat(`{"b":0},`, 1_000_000)+`0]}`, false)
	f("1,000 members, the last again", strings.TrimSuffix(many(999), "}")+`,"ma":0}`, false)
	f("17 members, the first again", strings.TrimSuffix(many(16), "}")+`,"ma":0}`, false)
}

// FuzzObject holds Object against encoding/json: the two differ by our rules alone.
func FuzzObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1,"b":[true,{"c":null}],"d":"\u00e9\ud83d\ude00"}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":{"b":1,"b":2}}`,
		`{"alg":"ES256","kid":"k","typ":"at+jwt"}`, ` { "a" : -1.5e3 } `, `{"a":"\ud800"}`, "{\"a\":\"\xff\"}", `[]`, `null`, `{"a":[[[[[[[[]]]]]]]]}`, `{"A":1,"a":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Object(data)
		if want := strictly(data); want != (err == nil) {
			t.Fatalf("accepted %v, want %v: %q", err == nil, want, data)
		}
		if err != nil {
			return
		}
		var theirs map[string]json.RawMessage
		if err := json.Unmarshal(data, &theirs); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", data, err)
		}
		if len(theirs) != len(got) {
			t.Fatalf("%d members, encoding/json has %d", len(got), len(theirs))
		}
		for name, value := range theirs {
			if !bytes.Equal(got[name], value) {
				t.Fatalf("%q: got %s, encoding/json has %s", name, got[name], value)
			}
		}
	})
}

// strictly is the slow way to what Object promises: encoding/json and a walk over its tokens.
func strictly(data []byte) bool {
	if !json.Valid(data) || !utf8.Valid(data) || loneSurrogate(data) {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	type level struct {
		names map[string]bool // nil: an array
		value bool            // an object's next token is a value
	}
	var open []level
	members, first := 0, true
	for {
		at, err := d.Token()
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			return false
		}
		if first && at != json.Delim('{') {
			return false
		}
		first = false
		switch at {
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
			continue
		}
		if n := len(open); n > 0 && open[n-1].names != nil {
			if !open[n-1].value {
				name := at.(string)
				if open[n-1].names[name] {
					return false
				}
				open[n-1].names[name] = true
				open[n-1].value = true
				if members++; members > maxMembers {
					return false
				}
				continue
			}
			open[n-1].value = false
		}
		if _, ok := at.(json.Delim); ok && len(open) == maxDepth {
			return false
		}
		switch at {
		case json.Delim('{'):
			open = append(open, level{names: map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{})
		}
	}
}

// loneSurrogate finds half a pair in JSON that is valid otherwise.
func loneSurrogate(data []byte) bool {
	half := func(i int) (high, low bool) {
		if i+6 > len(data) || data[i] != '\\' || data[i+1] != 'u' {
			return false, false
		}
		switch bytes.ToLower(data[i+2 : i+4])[0] {
		case 'd':
		default:
			return false, false
		}
		c := bytes.ToLower(data[i+3 : i+4])[0]
		return '8' <= c && c <= '9' || 'a' <= c && c <= 'b', 'c' <= c && c <= 'f'
	}
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		high, low := half(i)
		if low {
			return true
		}
		if high {
			if _, low := half(i + 6); !low {
				return true
			}
			i += 6
		}
		i++
	}
	return false
}

func BenchmarkObject(b *testing.B) {
	data := goodBody()
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Object([]byte(data)); err != nil {
			b.Fatal(err)
		}
	}
}
