package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// This file says what an address, a host, a path and a field name may look like. Its
// functions know nothing of settings, and their words quote nothing.

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// isToken reports whether text is a token, of which methods and field names are made
// (RFC 9110 §5.6.2).
func isToken(text string) bool {
	for i := range len(text) {
		if !isAlphanumeric(text[i]) && !strings.Contains("!#$%&'*+-.^_`|~", text[i:i+1]) {
			return false
		}
	}
	return text != ""
}

// fold drops case and every byte that is no letter or digit: X_Organization.Id reads
// as X-Organization-Id to some upstreams.
func fold(name string) string {
	folded := make([]byte, 0, len(name))
	for _, c := range []byte(strings.ToLower(name)) {
		if isAlphanumeric(c) {
			folded = append(folded, c)
		}
	}
	return string(folded)
}

// checkHost says what is wrong with a host: a name in lower case, an IPv4 address, or
// an IPv6 address in brackets; without a port.
func checkHost(host string) (problem string) {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		ip, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !ip.Is6() || ip.Zone() != "" || "["+ip.String()+"]" != host {
			return "is not an IPv6 address in its short form"
		}
		return ""
	}
	switch {
	case host == "":
		return "has no host"
	case host != strings.ToLower(host):
		return "has a host with upper-case letters"
	case len(host) > 253:
		return "has a host of more than 253 characters"
	}
	numeric := true // the last label is: by the WHATWG's rule, then all of it is an IPv4 address
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return "has no valid host name"
		}
		numeric = strings.Trim(label, "0123456789") == ""
	}
	if _, err := netip.ParseAddr(host); numeric && err != nil {
		return "has no valid IPv4 address"
	}
	return ""
}

// parsePort returns the number of a port in digits, without zeros before it, or -1.
func parsePort(text string) int {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || len(text) > 1 && text[0] == '0' {
		return -1
	}
	return int(n)
}

// A door is an address to listen on or to connect to.
type door struct {
	host string // without brackets; "" when listening: all addresses
	port int
}

// parseListen reads an address to listen on: host:port, :port or [IPv6]:port.
func parseListen(text string) (d door, ok bool) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return door{}, false
	}
	d = door{host, parsePort(port)}
	bracketed := host
	if strings.Contains(host, ":") {
		bracketed = "[" + host + "]"
	}
	return d, d.port >= 0 && (host == "" || checkHost(bracketed) == "")
}

// loopback reports whether only this machine can reach d.
func (d door) loopback() bool {
	ip, err := netip.ParseAddr(d.host)
	return d.host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// everywhere reports whether a listener at d takes connections to any address.
func (d door) everywhere() bool {
	ip, err := netip.ParseAddr(d.host)
	return d.host == "" || err == nil && ip.Unmap().IsUnspecified()
}

// meets reports whether a connection to other surely arrives at a listener at d. Of
// other machines' names nothing is sure, and nothing is looked up.
func (d door) meets(other door) bool {
	if d.port == 0 || d.port != other.port {
		return false
	}
	here := other.loopback() || other.everywhere() // connecting to 0.0.0.0 arrives at 127.0.0.1
	switch {
	case d.everywhere():
		return here || other.host == d.host
	case d.host == "localhost" || other.host == "localhost" || other.everywhere():
		return here && d.loopback()
	}
	return d.host == other.host
}

// splitURL takes scheme://host[:port] apart, where nothing else may stand.
func splitURL(text string) (scheme, host, port, problem string) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || scheme != "http" && scheme != "https" {
		return "", "", "", "is not an http or https URL"
	}
	switch {
	case strings.Contains(rest, "@"):
		return "", "", "", "holds a user name or a password"
	case strings.HasSuffix(rest, "/") && strings.Count(rest, "/") == 1:
		return "", "", "", "ends with a slash"
	case strings.ContainsAny(rest, "/?#"):
		return "", "", "", "has a path, a query or a fragment"
	}
	host = rest
	if colon := strings.LastIndexByte(rest, ':'); colon > strings.LastIndexByte(rest, ']') {
		host, port = rest[:colon], rest[colon+1:]
		if parsePort(port) < 1 {
			return "", "", "", "has no valid port"
		}
	}
	return scheme, host, port, checkHost(host)
}

// splitUpstream takes the URL of an upstream apart, all but its weight.
func splitUpstream(text string) (e Endpoint, problem, fix string) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		return Endpoint{Network: "unix", Address: path}, checkSocket(path), "write it as unix:/path, such as unix:/run/api.sock"
	}
	fix = "write it as http://host:port, https://host:port or unix:/path, such as http://127.0.0.1:3000"
	scheme, host, port, problem := splitURL(text)
	switch {
	case problem == "is not an http or https URL":
		problem = "is not an http, https or unix URL"
	case strings.HasPrefix(problem, "holds"):
		fix = "remove it; to send an upstream credentials, set Authorization in request_headers"
	case strings.HasPrefix(problem, "ends"), strings.HasPrefix(problem, "has a path"):
		fix = "end it after the host or port; strip_prefix and add_prefix change the path"
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	return Endpoint{Network: "tcp", Address: net.JoinHostPort(strings.Trim(host, "[]"), port), TLS: scheme == "https"}, problem, fix
}

// checkSocket says what is wrong with the path of a Unix socket.
func checkSocket(path string) (problem string) {
	const most = 107 // that a socket's address holds on Linux, beside the 0 after it
	switch {
	case !strings.HasPrefix(path, "/") || path == "/":
		return "has no absolute path"
	case path != filepath.Clean(path):
		return "has a path that is not in its short form"
	case len(path) > most:
		return fmt.Sprintf("has a path of more than %d bytes", most)
	}
	return ""
}

// checkOrigin says what is wrong with an origin as browsers write it (RFC 6454 §6.2).
func checkOrigin(text string) (problem string) {
	scheme, _, port, problem := splitURL(text)
	if problem == "" && (scheme == "http" && port == "80" || scheme == "https" && port == "443") {
		return "names the port that its scheme has anyway, which browsers leave out"
	}
	return problem
}

// isScope reports whether text is a scope-token (RFC 6749 §3.3).
func isScope(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return notVisible(r) || r == '"' || r == '\\' })
}

// parseProxies reads an address or a network of trusted proxies.
func parseProxies(text string) (netip.Prefix, wrong) {
	fix := "use an address or a network such as 10.0.0.1, 10.0.0.0/8 or fd00::/8"
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), wrong{}
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, wrong{"is no address and no network", fix}
	case p.Masked() != p:
		return netip.Prefix{}, wrong{"has bits beyond its length", "did you mean " + p.Masked().String() + "?"}
	}
	return p, wrong{}
}

// checkPath says what is wrong with a path that is compared, by whole segments, with
// request targets as they stand on the wire.
func checkPath(path string) wrong {
	const fix = "write it as /segment/segment, of letters, digits and -._~!$&'()*+,=:@"
	switch {
	case !strings.HasPrefix(path, "/"):
		return wrong{"does not begin with a slash", fix}
	case path == "/":
		return wrong{}
	case len(path) > 1024:
		return wrong{"is longer than 1024 characters", "shorten it"}
	case strings.HasSuffix(path, "/"):
		return wrong{"ends with a slash", "remove it: a path covers all below it, by whole segments"}
	}
	for i := range len(path) {
		if !isAlphanumeric(path[i]) && !strings.Contains("/-._~!$&'()*+,=:@", path[i:i+1]) {
			return wrong{"has a character that a path here may not have", fix}
		}
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		switch segment {
		case "":
			return wrong{"has an empty segment (//)", "remove the extra slash"}
		case ".", "..":
			return wrong{"has a dot segment", "write the path that it leads to"}
		}
	}
	return wrong{}
}
