package proxy

import (
	"bytes"
	"net/netip"
)

// trusted are the addresses of proxies in front of postern that may say whom they forward
// for.
type trusted []netip.Prefix

// has reports whether a is one of them. An address that is not valid is nobody's.
func (t trusted) has(a netip.Addr) bool {
	a = a.Unmap().WithZone("") // a prefix has no zone, and contains no address with one
	for _, p := range t {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// client finds whom a request comes from: the first address from the right that is not a
// trusted proxy's. Each proxy adds its own peer at the right end, so all that is left of
// an untrusted one is a claim. An entry that is no address ends the walk; then the last
// good one stands.
//
// hops are the fields X-Forwarded-For and Forwarded (RFC 7239), among others, in the order
// of their lines. Forwarded counts only where there is no X-Forwarded-For: the proxy must
// remove the one that it does not write.
func (t trusted) client(peer netip.Addr, hops []field) netip.Addr {
	if !t.has(peer) {
		return peer
	}
	name, read := "forwarded", parseForwarded
	for i := range hops {
		if equalFold(hops[i].name, "x-forwarded-for") {
			name, read = "x-forwarded-for", parseHop
		}
	}
	for i := len(hops) - 1; i >= 0; i-- {
		if !equalFold(hops[i].name, name) {
			continue
		}
		for rest, more := hops[i].value, true; more; {
			var element []byte
			if rest, element, more = lastElement(rest); len(element) == 0 {
				continue // a list may have empty elements (RFC 9110 §5.6.1.2)
			}
			hop, ok := read(element)
			if !ok {
				return peer
			}
			if peer = hop; !t.has(peer) {
				return peer
			}
		}
	}
	return peer
}

// lastElement cuts the last element of a comma-separated list off; commas in quotes part
// nothing (in X-Forwarded-For there are no quotes).
func lastElement(list []byte) (rest, element []byte, more bool) {
	quoted := false
	for i := len(list) - 1; i >= 0; i-- {
		switch {
		case list[i] == '"':
			quoted = !quoted
		case list[i] == ',' && !quoted:
			return list[:i], bytes.Trim(list[i+1:], " \t"), true
		}
	}
	return nil, bytes.Trim(list, " \t"), false
}

// parseHop reads an address, which may have a port: 192.0.2.1, 192.0.2.1:80, 2001:db8::1,
// [2001:db8::1], [2001:db8::1]:80.
func parseHop(text []byte) (netip.Addr, bool) {
	const longest = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535")
	if len(text) > longest {
		return netip.Addr{}, false
	}
	host := text
	switch colons := bytes.Count(text, []byte{':'}); {
	case len(text) > 0 && text[0] == '[':
		end := bytes.IndexByte(text, ']')
		if end < 0 || !portOrNone(text[end+1:]) {
			return netip.Addr{}, false
		}
		host = text[1:end]
		if bytes.IndexByte(host, ':') < 0 {
			return netip.Addr{}, false
		}
	case colons == 1:
		colon := bytes.IndexByte(text, ':')
		if !portOrNone(text[colon:]) {
			return netip.Addr{}, false
		}
		host = text[:colon]
	}
	if a, ok := parseIPv4(host); ok {
		return a, true
	}
	a, err := netip.ParseAddr(string(host))
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

// parseIPv4 reads a dotted address, as netip.ParseAddr does, without allocating.
func parseIPv4(text []byte) (netip.Addr, bool) {
	var octets [4]byte
	for i := range octets {
		digits := text
		if dot := bytes.IndexByte(text, '.'); (dot >= 0) != (i < 3) {
			return netip.Addr{}, false
		} else if dot >= 0 {
			digits, text = text[:dot], text[dot+1:]
		}
		n, ok := parseLength(digits)
		if !ok || n > 255 || len(digits) > 1 && digits[0] == '0' {
			return netip.Addr{}, false
		}
		octets[i] = byte(n)
	}
	return netip.AddrFrom4(octets), true
}

// portOrNone reports whether text is nothing, or a colon and a port.
func portOrNone(text []byte) bool {
	if len(text) == 0 {
		return true
	}
	n, ok := parseLength(text[1:])
	return text[0] == ':' && ok && n <= 65535
}

// parseForwarded reads the address of "for" in an element of Forwarded. An obfuscated or
// unknown node (RFC 7239 §6) is no address.
func parseForwarded(element []byte) (netip.Addr, bool) {
	for len(element) > 0 {
		var pair []byte
		pair, element = cutUnquoted(element, ';')
		name, value, ok := bytes.Cut(bytes.Trim(pair, " \t"), []byte{'='})
		if !ok || !equalFold(name, "for") {
			continue
		}
		if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		return parseHop(value)
	}
	return netip.Addr{}, false
}

// cutUnquoted cuts at the first separator that is not in quotes.
func cutUnquoted(text []byte, separator byte) (before, after []byte) {
	quoted := false
	for i, c := range text {
		switch {
		case c == '"':
			quoted = !quoted
		case c == separator && !quoted:
			return text[:i], text[i+1:]
		}
	}
	return text, nil
}
