package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"

	"postern/directory"
)

// stamps are the identity fields' names, ready to be appended.
type stamps struct{ organization, client, environment, token, agreement, catalog, scopes []byte }

func newStamps(h Headers) stamps {
	line := func(name string) []byte { return []byte(name + ": ") }
	return stamps{line(h.Organization), line(h.Client), line(h.Environment), line(h.Token), line(h.Agreement), line(h.Catalog), line(h.Scopes)}
}

// upstreamHead appends the head of the upstream request to dst: the client's fields by
// the allow-rule, then ours.
func (x *exchange) upstreamHead(dst []byte) []byte {
	h := &x.head
	dst = append(dst, h.method...)
	dst = append(dst, ' ')
	if x.route.rewriting.none() {
		dst = append(dst, h.target...)
	} else {
		dst = append(dst, x.moved...)
		dst = append(dst, h.target[len(h.path):]...)
	}
	dst = append(dst, " HTTP/1.1\r\n"...) // our own version, whatever the client's (RFC 9110 §2.5)
	host := h.host
	if len(host) == 0 {
		host = x.route.upstream.host
	}
	if set := x.route.request.host; set != nil {
		dst = appendField(dst, "Host: ", set)
	} else {
		dst = appendField(dst, "Host: ", host)
	}
	drops := len(x.route.request.drop) > 0
	for i := range h.fields {
		if drops && x.route.request.drops(h.fields[i].name) {
			continue
		}
		dst = append(dst, h.fields[i].name...)
		dst = append(dst, ':', ' ')
		dst = append(dst, h.fields[i].value...)
		dst = append(dst, '\r', '\n')
	}
	if x.route.PassAuthorization && h.authorizations == 1 {
		dst = appendField(dst, "Authorization: ", h.authorization)
	}
	if x.socket.asked {
		dst = append(dst, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	}
	dst = append(dst, x.route.request.lines...)
	dst = appendForwarding(dst, x, host)
	dst = x.appendIdentity(dst)
	switch {
	case h.chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		for i, name := range x.route.Trailers { // that may come (RFC 9110 §6.6.2)
			dst = append(append(dst, [...]string{"Trailer: ", ", "}[min(i, 1)]...), name...)
		}
		if len(x.route.Trailers) > 0 {
			dst = append(dst, "\r\n"...)
		}
	case h.hasLength:
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, h.contentLength, 10)
		dst = append(dst, '\r', '\n')
	}
	return append(dst, '\r', '\n')
}

func appendField[T string | []byte](dst []byte, name string, value T) []byte {
	dst = append(dst, name...)
	dst = append(dst, value...)
	return append(dst, '\r', '\n')
}

// appendAddress writes "unknown" (RFC 7239 §6.2) where there is no address.
func appendAddress(dst []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return append(dst, "unknown"...)
	}
	return a.AppendTo(dst)
}

// append writes the identity. An absent value is an absent field.
func (s *stamps) append(dst []byte, who *directory.Principal) []byte {
	c := who.Client
	dst = appendStamp(dst, s.organization, c.OrganizationID)
	dst = appendStamp(dst, s.client, c.ID)
	dst = appendStamp(dst, s.environment, c.Environment)
	dst = append(dst, s.token...)
	dst = appendUUID(dst, who.Token)
	dst = append(dst, '\r', '\n')
	dst = appendStamp(dst, s.agreement, c.AgreementID)
	return appendStamp(dst, s.scopes, who.Scope)
}

func appendStamp(dst, name []byte, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(dst, name...)
	dst = append(dst, value...)
	return append(dst, '\r', '\n')
}

// appendUUID writes the canonical form without allocating.
func appendUUID(dst []byte, id [16]byte) []byte {
	var text [36]byte
	hex.Encode(text[:8], id[:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:], id[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return append(dst, text[:]...)
}

// peerOf is the address of the client's end of the connection.
func peerOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// requestIDs makes ids that are unique to this process and cheap: a random prefix and a
// counter. They name requests; nothing rests on their being hard to guess.
type requestIDs struct {
	prefix []byte
	next   *atomic.Uint64
}

func newRequestIDs(random io.Reader) (requestIDs, error) {
	var seed [8]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return requestIDs{}, fmt.Errorf("read randomness: %w", err)
	}
	return requestIDs{prefix: append(hex.AppendEncode(nil, seed[:]), '-'), next: new(atomic.Uint64)}, nil
}

func (r requestIDs) append(dst []byte) []byte {
	dst = append(dst, r.prefix...)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], r.next.Add(1))
	return hex.AppendEncode(dst, n[2:])
}
