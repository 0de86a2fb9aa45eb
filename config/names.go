package config

import (
	"net"
	"net/netip"
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

// splitUpstream takes the URL of an upstream apart; host is without brackets.
func splitUpstream(text string) (host, port, problem, fix string) {
	fix = "write it as http://host:port, such as http://127.0.0.1:3000"
	scheme, host, port, problem := splitURL(text)
	switch {
	case problem == "is not an http or https URL":
		problem = "is not an http URL"
	case scheme == "https":
		problem, fix = "is https, which is not supported yet", "use http, or put a TLS proxy in between"
	case strings.HasPrefix(problem, "holds"):
		fix = "remove it: postern sends no credentials of its own to an upstream"
	case strings.HasPrefix(problem, "ends"), strings.HasPrefix(problem, "has a path"):
		fix = "end it after the host or port: the request target is forwarded as it came, so nothing can be put before it"
	}
	if port == "" {
		port = "80"
	}
	return strings.Trim(host, "[]"), port, problem, fix
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
