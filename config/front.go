package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// Proxies are the networks of front.trusted_proxies.
func (f Front) Proxies() []netip.Prefix {
	var all []netip.Prefix
	for _, text := range f.TrustedProxies {
		p, _ := parseProxies(text)
		all = append(all, p)
	}
	return all
}

func (l *loader) doors() {
	c := &l.config
	f := func(key, value string) (door, bool) {
		d, ok := parseListen(value)
		if !l.ok(key) {
			return d, false
		}
		if !ok {
			l.fault(key, l.shown(key, value)+" is not an address and a port", "use one such as 127.0.0.1:8080, [::1]:8080 or :8080")
		}
		return d, ok
	}
	front, frontOK := f("front.listen", c.Front.Listen)
	admin, adminOK := f("admin.listen", c.Admin.Listen)
	clash := front.meets(admin) || admin.meets(front) || front.port == admin.port && (front.everywhere() || admin.everywhere())
	if frontOK && adminOK && front.port != 0 && clash {
		l.fault(l.blame("admin.listen", "front.listen"), "front.listen and admin.listen are one address", "give them different ports")
	}
}

func (l *loader) sizes() {
	f, i := l.config.Front, l.config.Issuer
	l.below("front.max_target", "front.max_header", f.MaxTarget.String(), f.MaxHeader.String(), f.MaxTarget < f.MaxHeader)
	l.below("issuer.lifetime", "issuer.max_lifetime", i.Lifetime.String(), i.MaxLifetime.String(), i.Lifetime <= i.MaxLifetime)
	if k := l.config.Keys; k.Rotate != 0 {
		l.below("keys.publish", "keys.rotate", k.Publish.String(), k.Rotate.String(), k.Publish < k.Rotate)
	}
}

// front checks whom it believes, and its TLS.
func (l *loader) front() {
	f := l.config.Front
	for i, text := range f.TrustedProxies {
		at := fmt.Sprintf("front.trusted_proxies[%d]", i)
		if !l.ok(at) {
			continue
		}
		p, w := parseProxies(text)
		switch {
		case w != (wrong{}):
			l.fault(at, l.shown(at, text)+" "+w.problem, w.fix)
		case p.Bits() == 0:
			l.warn(at, "trusts everybody: any client can say where it comes from", "list the addresses of your proxies alone")
		}
	}
	if f.ProxyProtocol && len(f.TrustedProxies) == 0 && l.ok("front.proxy_protocol", "front.trusted_proxies") {
		l.fault("front.proxy_protocol", "needs front.trusted_proxies, which is empty", "list the addresses of the proxies that send the header")
	}
	l.pair("front.tls", f.TLS.Certificate, f.TLS.Key)
	const ca, clients = "front.tls.client_ca", "front.tls.client_certificate"
	if !l.ok(ca, clients) {
		return
	}
	switch asked := f.TLS.ClientCertificate != "none"; {
	case (asked || f.TLS.ClientCA != "") && !f.TLS.Enabled() && l.ok("front.tls.certificate"):
		l.fault(l.blame(clients, ca), "needs front.tls.certificate, which is empty", "set certificate and key, or remove it")
	case asked && f.TLS.ClientCA == "":
		l.fault(clients, "needs client_ca, which is empty", "name the file of the authorities that sign clients' certificates")
	case !asked && f.TLS.ClientCA != "":
		l.fault(ca, "is set, and client_certificate is none", "set client_certificate to optional or required")
	}
	l.authorities(ca, f.TLS.ClientCA)
}

// decision checks the path of the decision endpoint.
func (l *loader) decision() {
	const key = "decision.path"
	path := l.config.Decision.Path
	if path == "" || !l.ok(key) {
		return
	}
	const example = "use one such as /decision"
	w := checkPath(path)
	token := strings.ToLower(l.config.Issuer.TokenPath) + "/"
	switch lower := strings.ToLower(path) + "/"; {
	case w != (wrong{}):
	case path == "/":
		w = wrong{"covers every path", example}
	case strings.HasPrefix(lower, "/.well-known/"):
		w = wrong{"lies where the well-known documents are", example}
	case l.ok("issuer.token_path") && strings.HasPrefix(lower, token):
		w = wrong{"lies at or below issuer.token_path", example}
	case l.ok("issuer.token_path") && strings.HasPrefix(token, lower):
		w = wrong{"covers issuer.token_path", example}
	}
	if w != (wrong{}) {
		l.fault(key, l.shown(key, path)+" "+w.problem, w.fix)
		return
	}
	if len(l.config.Front.TrustedProxies) == 0 && l.ok("front.trusted_proxies") {
		l.fault(key, "needs front.trusted_proxies, which is empty", "list the addresses of the proxies that may ask")
	}
}
