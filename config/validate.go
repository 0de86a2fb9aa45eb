package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// validate checks what one value alone cannot show: the form of texts, and settings
// against each other. A setting that is wrong already is not judged again.
func (l *loader) validate() {
	l.doors()
	l.sizes()
	l.front()
	l.decision()
	l.store()
	l.redis()
	l.issuer()
	l.headers()
	l.log()
	l.routes()
}

// shown is the value of key as it was written, for a message; value is what to show
// when it came from nowhere.
func (l *loader) shown(key, value string) string {
	if o := l.origin(key); o.shown != "" {
		return o.shown
	}
	return quoted(value)
}

// blame is the first of keys that somebody set: the one to look at when they do not fit.
func (l *loader) blame(keys ...string) string {
	for _, key := range keys {
		if _, ok := l.origins[key]; ok {
			return key
		}
	}
	return keys[0]
}

// below says that one setting must lie below another, unless it is ok, at the one of
// them that was set.
func (l *loader) below(low, high, lowValue, highValue string, ok bool) {
	if ok || !l.ok(low, high) {
		return
	}
	if l.blame(low, high) == low {
		l.fault(low, lowValue+" is too much for "+high+", which is "+highValue, "lower it, or raise "+high)
	} else {
		l.fault(high, highValue+" is too little for "+low+", which is "+lowValue, "raise it, or lower "+low)
	}
}

// store checks the data source name, of which nothing is ever shown: it may hold a password.
func (l *loader) store() {
	const (
		fix = "use sqlite:PATH, such as sqlite:postern.db"
		or  = ", or postgres://USER:PASSWORD@HOST/DATABASE"
	)
	if !l.ok("store", "store_file") {
		return
	}
	dsn := l.config.Store.Reveal()
	scheme, path, _ := strings.Cut(dsn, ":")
	switch {
	case l.config.Store == "":
		l.fault("store", "is empty", fix+or)
	case scheme == "postgres", scheme == "postgresql":
		l.postgres(dsn)
	case scheme != "sqlite":
		l.fault("store", "names no store that is supported", fix+or)
	case path == "":
		l.fault("store", "has no path", fix)
	case strings.HasPrefix(path, ":memory:"):
		l.fault("store", "is in memory, where clients and tokens are lost at each start", fix)
	case strings.HasPrefix(path, "file:"), strings.ContainsAny(path, "?#%"):
		l.fault("store", "has options, or a character that would begin them", fix+"; postern sets SQLite's options itself")
	}
}

// postgres checks what only the shared store needs. What the DSN says is the driver's to read.
func (l *loader) postgres(dsn string) {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		l.fault("store", "is not the DSN of a PostgreSQL database", "use postgres://USER:PASSWORD@HOST/DATABASE")
	}
	if l.config.Keys.MasterKey == "" && l.ok("keys.master_key", "keys.master_key_file") {
		l.fault("keys.master_key", "is not set, and PostgreSQL holds no signing keys in clear", "make one with: openssl rand -base64 32, and set master_key_file")
	}
}

// redis checks the address, of which nothing is ever shown: it may hold a password.
func (l *loader) redis() {
	if l.config.Redis == "" || !l.ok("redis", "redis_file") {
		return
	}
	scheme, rest, ok := strings.Cut(l.config.Redis.Reveal(), "://")
	if !ok || scheme != "redis" && scheme != "rediss" || rest == "" {
		l.fault("redis", "is not the address of a Redis", "use redis://HOST:6379, or rediss://USER:PASSWORD@HOST:6379 for TLS")
	}
}

func (l *loader) issuer() {
	c := &l.config
	front, listening := parseListen(c.Front.Listen)
	if listening = listening && l.ok("front.listen"); l.ok("issuer.url") {
		switch {
		case c.Issuer.URL != "":
			l.issuerURL(front, listening)
		case listening && !front.loopback():
			l.faultAt(l.origin("front.listen"), "issuer.url", "is required, because the front does not listen on loopback",
				"set it to the address that clients use, such as https://api.example.com")
		}
	}
	if a := c.Issuer.Audience; l.ok("issuer.audience", "issuer.url") && (len(a) > 255 || strings.ContainsFunc(a, notVisible)) {
		l.fault("issuer.audience", l.shown("issuer.audience", a)+" is not at most 255 visible ASCII characters", "use a URL such as https://api.example.com")
	}
	realm := c.Issuer.Realm
	if l.ok("issuer.realm") && (realm == "" || len(realm) > 128 || strings.ContainsFunc(realm, notQuotable)) {
		l.fault("issuer.realm", l.shown("issuer.realm", realm)+" is not 1 to 128 printable ASCII characters without quotes and backslashes", "use a name such as postern")
	}
	if !l.ok("issuer.token_path") {
		return
	}
	path := c.Issuer.TokenPath
	w := checkPath(path)
	switch lower := strings.ToLower(path) + "/"; {
	case w != (wrong{}):
	case path == "/":
		w = wrong{"covers every path", "use one such as /oauth/token"}
	case strings.HasPrefix(lower, "/.well-known/"):
		w = wrong{"lies where the well-known documents are", "use one such as /oauth/token"}
	}
	if w != (wrong{}) {
		l.fault("issuer.token_path", l.shown("issuer.token_path", path)+" "+w.problem, w.fix)
	}
}

// issuerURL checks issuer.url, which verifiers compare byte for byte with the claim iss.
func (l *loader) issuerURL(front door, listening bool) {
	const key = "issuer.url"
	scheme, _, _, problem := splitURL(l.config.Issuer.URL)
	switch {
	case problem != "":
		l.fault(key, l.shown(key, l.config.Issuer.URL)+" "+problem, "use scheme and host alone, such as https://api.example.com")
	case scheme == "http" && listening && !front.loopback():
		l.warn(key, "is plain http, and the front does not listen on loopback: secrets and tokens cross the network in clear",
			"give the front a certificate (front.tls) or put TLS in front of it, and use https")
	}
}

func notVisible(r rune) bool  { return r <= ' ' || r > '~' }
func notQuotable(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }

// taken are fields, folded, that identity must not be written to: HTTP itself, the
// upstream's framing, or postern gives them another meaning.
var taken = map[string]bool{
	"host": true, "authorization": true, "cookie": true, "setcookie": true, "wwwauthenticate": true,
	"connection": true, "keepalive": true, "te": true, "trailer": true, "transferencoding": true, "upgrade": true,
	"http2settings": true, "expect": true, "date": true, "via": true, "forwarded": true, "maxforwards": true,
	"range": true, "origin": true, "referer": true, "useragent": true, "accept": true, "from": true, "server": true,
	"cachecontrol": true, "pragma": true, "allow": true, "location": true, "retryafter": true,
	"contentlength": true, "contenttype": true, "contentencoding": true,
	"xforwardedfor": true, "xforwardedproto": true, "xforwardedhost": true,
	"xrequestid": true, "xrealip": true, "traceparent": true, "tracestate": true, "baggage": true,
}

// takenFamilies are beginnings of such fields, with - for every other character.
var takenFamilies = []string{"content-", "proxy-", "sec-", "if-", "accept-", "access-control-", "x-forwarded-"}

func (l *loader) headers() {
	h := l.config.Headers
	type field struct{ key, name string }
	byFold := map[string]field{}
	f := func(key, name string) {
		if !l.ok(key) {
			return
		}
		folded := fold(name)
		other, twice := byFold[folded]
		switch {
		case !isToken(name) || len(name) > 64 || folded == "":
			l.fault(key, l.shown(key, name)+" is not a field name", "use letters, digits and hyphens, such as X-Client-Id")
		case isTaken(name):
			l.fault(key, l.shown(key, name)+" has a meaning of its own in HTTP", "use another name, such as X-Client-Id")
		case twice:
			if l.blame(key, other.key) == other.key { // it was set, and met a default
				other, key, name = field{key, name}, other.key, other.name
			}
			l.fault(key, l.shown(key, name)+" is also "+other.key+": case and punctuation do not tell fields apart everywhere",
				"use names that differ in letters or digits")
		default:
			byFold[folded] = field{key, name}
		}
	}
	for _, each := range settingsOf(reflect.TypeOf(h)) {
		f("headers."+each.name, reflect.ValueOf(h).Field(each.index).String())
	}
}

func isTaken(name string) bool {
	return taken[fold(name)] || inFamily(name, takenFamilies)
}

// inFamily reports whether name begins with one of families, whatever stands where
// they have a hyphen.
func inFamily(name string, families []string) bool {
	hyphened := strings.Map(func(r rune) rune {
		if r < 0x80 && isAlphanumeric(byte(r)) {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	return slices.ContainsFunc(families, func(family string) bool { return strings.HasPrefix(hyphened, family) })
}

// log checks the members of the access log's lines; what they may be is checked already.
func (l *loader) log() { l.once("log.access_fields", l.config.Log.AccessFields) }

// once refuses what a list holds twice.
func (l *loader) once(key string, values []string) {
	seen := make(map[string]bool, len(values))
	for i, value := range values {
		if seen[value] {
			if at := fmt.Sprintf("%s[%d]", key, i); l.ok(at) {
				l.fault(at, l.shown(at, value)+" is listed twice", "remove one of the two")
			}
		}
		seen[value] = true
	}
}

// elements checks each value of a list: by check, and that it is there once.
func (l *loader) elements(key string, values []string, check func(string) wrong) {
	for i, value := range values {
		at := fmt.Sprintf("%s[%d]", key, i)
		if !l.ok(at) {
			continue
		}
		if w := check(value); w != (wrong{}) {
			l.fault(at, l.shown(at, value)+" "+w.problem, w.fix)
		}
	}
	l.once(key, values)
}
