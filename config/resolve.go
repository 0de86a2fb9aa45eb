package config

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"postern/secret"
)

const upstreamFlag = "--upstream"

// upstream adds the one route of Source.Upstream.
func (l *loader) upstream() {
	if l.source.Upstream == "" {
		return
	}
	if len(l.config.Routes) > 0 {
		l.faultAt(origin{layer: fromFlag, where: upstreamFlag}, "", "is given, and routes are too", "use one of the two")
		return
	}
	var r Route
	setDefaults(reflect.ValueOf(&r).Elem())
	u := Upstream{URL: l.source.Upstream, Weight: 1}
	r.Upstream = []Upstream{u}
	l.config.Routes = []Route{r}
	o := origin{layer: fromFlag, where: upstreamFlag, literal: true}
	l.origins["routes"], l.origins["routes[0]"] = o, o
	o.shown = quoted(l.source.Upstream)
	l.origins["routes[0].upstream[0]"] = o
}

// resolve reads the files that secrets are in, and fills in what follows from other
// settings.
func (l *loader) resolve() {
	c := &l.config
	c.Store = l.pick("store", "store_file", c.Store, c.StoreFile)
	c.Redis = l.pick("redis", "redis_file", c.Redis, c.RedisFile)
	c.Keys.MasterKey = l.masterKey(l.pick("keys.master_key", "keys.master_key_file", c.Keys.MasterKey, c.Keys.MasterKeyFile))

	front, ok := parseListen(c.Front.Listen)
	if c.Issuer.URL == "" && ok && front.loopback() && front.port != 0 {
		c.Issuer.URL = "http://" + c.Front.Listen
		if c.Front.TLS.Enabled() {
			c.Issuer.URL = "https://" + c.Front.Listen
		}
	}
	if c.Issuer.Audience == "" {
		c.Issuer.Audience = c.Issuer.URL
	}
	for i := range c.Routes {
		r := &c.Routes[i]
		if r.Name == "" {
			r.Name = r.Host + r.Path
		}
		if r.Assertion.Enabled && r.Assertion.Audience == "" && l.ok(fmt.Sprintf("routes[%d].assertion.audience", i)) {
			r.Assertion.Audience = r.Name
		}
		l.fieldFiles(fmt.Sprintf("routes[%d].request_headers", i), r.RequestHeaders)
		l.fieldFiles(fmt.Sprintf("routes[%d].response_headers", i), r.ResponseHeaders)
	}
}

// fieldFiles fills in the values of fields that files hold.
func (l *loader) fieldFiles(key string, fields []Field) {
	for i := range fields {
		f, at := &fields[i], fmt.Sprintf("%s[%d]", key, i)
		f.Value = l.pick(at+".value", at+".value_file", f.Value, f.ValueFile)
	}
}

// pick returns a secret that is either written as the setting key or held by the file
// that the setting fileKey names: whichever comes from the higher layer.
func (l *loader) pick(key, fileKey string, written secret.Secret, path string) secret.Secret {
	direct, file := l.origins[key], l.origins[fileKey]
	if written == "" {
		direct.layer = fromNowhere
	}
	switch {
	case path == "" || !l.ok(fileKey) || direct.layer > file.layer:
		return written
	case direct.layer == file.layer:
		l.fault(fileKey, "is set, and "+key+" is too", "use one of the two")
		return written
	}
	data, mode, err := read(path, maxSecretFile)
	switch {
	case err != nil:
		l.fault(fileKey, "names a file that "+err.Error(), l.pathFix(path))
		return ""
	case open(mode):
		l.warn(fileKey, readableProblem, readableFix)
	}
	// From here on the secret's origin is where its file was named.
	file.shown = unshown
	l.origins[key] = file
	var s secret.Secret
	if w := (setting{}).set(reflect.ValueOf(&s).Elem(), string(data)); w != (wrong{}) {
		l.fault(fileKey, "names a file whose content "+w.problem, w.fix)
	} else if s == "" {
		l.fault(fileKey, "names a file that is empty", "write the secret to it")
	}
	return s
}

// masterKey returns the 32 bytes that text is the base64 or hex of, or nothing.
func (l *loader) masterKey(text secret.Secret) secret.Secret {
	const (
		key = "keys.master_key"
		fix = "make one with: openssl rand -base64 32"
	)
	if !l.ok(key, "keys.master_key_file") {
		return ""
	}
	if text == "" {
		if strings.HasPrefix(l.config.Store.Reveal(), "postgres") {
			return "" // a fault, not a warning
		}
		l.warn(key, "is not set: the store holds the signing keys in clear", fix)
		return ""
	}
	if o := l.origins[key]; l.readable && o.layer == fromFile && o.literal && l.config.Keys.MasterKeyFile == "" {
		l.warn(key, "is written in a file that every user of this machine can read", "chmod 0600 it, or use ${NAME} or master_key_file")
	}
	raw, ok := decodeKey(text.Reveal())
	if !ok {
		l.fault(key, "is not 32 bytes in base64 or hex", fix)
		return ""
	}
	distinct := map[byte]bool{}
	for _, b := range raw {
		distinct[b] = true
	}
	if len(distinct) < 8 { // one key in 10^30 by chance
		l.fault(key, "is not random", fix)
		return ""
	}
	if !slices.ContainsFunc(raw, func(b byte) bool { return b < ' ' || b > '~' }) { // one in 10^13 by chance
		l.warn(key, "is text and no random bytes, as if somebody had made it up", fix)
	}
	return secret.Secret(raw)
}

func decodeKey(text string) (raw []byte, ok bool) {
	if raw, err := hex.DecodeString(text); err == nil && len(raw) == 32 {
		return raw, true
	}
	text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
	raw, err := base64.RawStdEncoding.Strict().DecodeString(text)
	return raw, err == nil && len(raw) == 32
}
