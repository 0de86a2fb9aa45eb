package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"postern/secret"
)

// ours are fields, folded, that no route may set, remove or pass as trailers: they are
// about one connection or one message, or tell who sent it and through whom.
var ours = map[string]bool{
	"connection": true, "transferencoding": true, "contentlength": true, "te": true, "trailer": true, "upgrade": true, "keepalive": true,
	"http2settings": true, "expect": true,
	"forwarded": true, "via": true, "xrequestid": true, "xposternassertion": true,
}

// ourFamilies are beginnings of such fields, with - for every other character.
var ourFamilies = []string{"proxy-", "x-forwarded-", "sec-websocket-"}

// noTrailers are fields, folded, that mean something before the content alone (RFC 9110 §6.5.1).
var noTrailers = map[string]bool{"authorization": true, "host": true, "setcookie": true}

// identity are the names, folded, of the identity fields and of their defaults.
func (l *loader) identity() map[string]bool {
	if l.identities != nil {
		return l.identities
	}
	all := map[string]bool{}
	for _, h := range []Headers{l.config.Headers, Default().Headers} {
		for _, s := range settingsOf(reflect.TypeOf(h)) {
			all[fold(reflect.ValueOf(h).Field(s.index).String())] = true
		}
	}
	l.identities = all
	return all
}

// reserved says why a route must leave the field name alone.
func (l *loader) reserved(name string) wrong {
	switch folded := fold(name); {
	case !isToken(name) || folded == "" || len(name) > 128:
		return wrong{"is not a field name", "use letters, digits and hyphens, such as X-Environment"}
	case l.identity()[folded]:
		return wrong{"is an identity field, which postern alone sets", "use another name"}
	case ours[folded] || inFamily(name, ourFamilies):
		return wrong{"is a field that postern sets or removes itself", "remove it"}
	}
	return wrong{}
}

func (l *loader) routeFields(key string, r Route) {
	l.fields(key+".request_headers", r.RequestHeaders, func(f Field) wrong {
		switch fold(f.Name) {
		case "host":
			if f.Remove {
				return wrong{"cannot be removed", "set it to a value, or leave it as it is"}
			}
		case "authorization":
			if r.Authorization == "pass" && l.ok(key+".authorization") {
				return wrong{"is changed here, and authorization: pass hands on the client's", "use authorization: strip"}
			}
		}
		return wrong{}
	})
	l.fields(key+".response_headers", r.ResponseHeaders, func(f Field) wrong {
		switch {
		case fold(f.Name) == "date":
			return wrong{"is a field that postern sets or removes itself", "remove it"}
		case len(r.CORS.Origins) > 0 && inFamily(f.Name, []string{"access-control-"}):
			return wrong{"is a field that cors sets", "remove it, or cors"}
		}
		return wrong{}
	})
	l.elements(key+".trailers", r.Trailers, func(name string) wrong {
		w := l.reserved(name)
		if w == (wrong{}) && (noTrailers[fold(name)] || inFamily(name, []string{"content-"})) {
			w = wrong{"may not be a trailer field", "remove it"}
		}
		return w
	})
}

// fields checks the fields that a route sets and removes; further is what is wrong with
// one in this direction alone.
func (l *loader) fields(key string, fields []Field, further func(Field) wrong) {
	names := map[string]bool{}
	for i, f := range fields {
		at := fmt.Sprintf("%s[%d]", key, i)
		name := at + ".name"
		if !l.ok(at, name) {
			continue
		}
		if _, ok := l.origins[name]; !ok {
			l.fault(name, "is required", "name the field")
			continue
		}
		w := l.reserved(f.Name)
		if w == (wrong{}) {
			w = further(f)
		}
		if w == (wrong{}) && names[fold(f.Name)] {
			w = wrong{"is listed twice", "remove one of the two"}
		}
		if w != (wrong{}) {
			l.fault(name, l.shown(name, f.Name)+" "+w.problem, w.fix)
			continue
		}
		names[fold(f.Name)] = true
		l.fieldValue(at, f)
	}
}

// fieldValue checks that a field is either set or removed, and what it is set to, of
// which nothing is ever shown.
func (l *loader) fieldValue(at string, f Field) {
	if !l.ok(at+".value", at+".value_file", at+".remove") {
		return
	}
	switch {
	case f.Value == "" && !f.Remove:
		l.fault(at, "sets nothing and removes nothing", "give it one of value, value_file and remove: true")
		return
	case f.Value != "" && f.Remove:
		l.fault(at, "has a value and is to be removed", "keep one of value, value_file and remove: true")
		return
	}
	value := at + ".value"
	if fold(f.Name) == "host" {
		if _, _, _, problem := splitURL("http://" + f.Value.Reveal()); !f.Remove && problem != "" {
			l.fault(value, "is not a host, with or without a port", "use one in lower case, such as api.internal:8080")
		}
	}
	o := l.origins[value]
	switch {
	case madeUp(f.Value):
		l.warn(value, "looks like a default that anybody can guess", "use a secret of your own")
	case l.readable && o.literal && f.ValueFile == "" && isCredential(f.Name):
		l.warn(value, "is written in a file that every user of this machine can read", "chmod 0600 it, or use ${NAME} or value_file")
	}
}

// isCredential reports whether a field of this name carries a secret, as far as one can tell.
func isCredential(name string) bool {
	folded := fold(name)
	return slices.ContainsFunc([]string{"authorization", "cookie", "apikey", "token", "secret", "password"}, func(part string) bool {
		return strings.Contains(folded, part)
	})
}

// madeUp reports whether value is, after a scheme such as Bearer, what people write
// where a secret is to be.
func madeUp(value secret.Secret) bool {
	words := strings.Fields(strings.ToLower(value.Reveal()))
	if len(words) == 0 {
		return false
	}
	return slices.Contains([]string{"changeme", "changeit", "secret", "password"}, fold(words[len(words)-1]))
}
