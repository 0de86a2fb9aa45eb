package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzLoad: whatever a file, a variable and a flag hold, Load neither panics nor takes
// long, and what only the environment and a key file know is in none of its messages.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range append(files, "example.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "POSTERN_FRONT_LISTEN=:80", "front.listen", "127.0.0.1:0", "")
	}
	const planted = "hunter2-correct-horse"
	for _, value := range []string{"${PLANTED}", "x${PLANTED}", "$${PLANTED}", "${PLANTED}/", "https://${PLANTED}"} {
		for _, line := range []string{"realm", "url", "audience", "token_path", "algorithm", "lifetime", "enabled"} {
			f.Add([]byte("issuer: {"+line+": \""+value+"\"}\n"+minimal), "PLANTED=again", "log.level", "debug", "http://127.0.0.1:1")
		}
		f.Add([]byte("routes: [{name: \""+value+"\", host: \""+value+"\", path: \""+value+"\", methods: [\""+value+"\"], upstream: [\""+value+"\"]}]\n"), "A=b", "", "", "")
		f.Add([]byte("routes: [{upstream: [{url: \""+value+"\"}], request_headers: [{name: Host, value: \""+value+"\"}], scopes: [\""+value+"\"], cors: {origins: [\""+value+"\"]}, strip_prefix: \""+value+"\"}]\n"), "A=b", "", "", "")
		f.Add([]byte("keys: {master_key: \""+value+"\"}\nstore: \""+value+"\"\n"+minimal), "A=b", "", "", "")
	}
	f.Fuzz(func(t *testing.T, text []byte, variable, flag, value, upstream string) {
		// Only the directory of the test may be read: a fuzzer must not open what it likes.
		if s := string(text); strings.Contains(s, "_file") || strings.Contains(variable, "_FILE") || strings.Contains(flag, "_file") ||
			strings.Contains(s, "tls") || strings.Contains(variable, "_TLS_") || strings.Contains(flag, "tls") {
			t.Skip()
		}
		s := Source{
			File:     write(t, "postern.yaml", string(text)),
			Environ:  []string{variable, "PLANTED=" + planted, "POSTERN_STORE=" + planted},
			Flags:    map[string]string{flag: value},
			Upstream: upstream,
		}
		if len(text)%2 == 0 {
			s.Environ = append(s.Environ, "POSTERN_KEYS_MASTER_KEY="+planted)
		} else {
			s.Environ = append(s.Environ, "POSTERN_STORE=sqlite:p.db", "POSTERN_KEYS_MASTER_KEY_FILE="+write(t, "key", planted))
		}
		start := time.Now()
		c, err := Load(s)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %v for %d bytes", took, len(text))
		}
		if err == nil {
			t.Fatal("accepted a master key that is none")
		}
		said := fmt.Sprint(err, c.Warnings())
		if strings.Contains(said, planted) {
			t.Errorf("shows a secret: %s", said)
		}
		// The same file with good secrets: what else is wrong must not show ${PLANTED} either.
		s.Environ = []string{variable, "PLANTED=" + planted, "POSTERN_KEYS_MASTER_KEY=" + aKey, "POSTERN_STORE=sqlite:p.db"}
		c, err = Load(s)
		if said := fmt.Sprint(err, c.Warnings()); strings.Contains(said, planted) || strings.Contains(said, aKey) {
			t.Errorf("shows a secret: %s", said)
		}
	})
}
