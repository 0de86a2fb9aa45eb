package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

// The PROXY protocol's specification is at haproxy.org, doc/proxy-protocol.txt. postern
// reads the header itself, and no byte behind it: what follows stays in the socket, where
// TLS and the watch for a client that goes away expect it.

const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n" // of version 2
	// proxyLine is the longest line of version 1, with its CRLF.
	proxyLine = 107
	// proxyBlock is the most of addresses and extensions of version 2 that is read.
	proxyBlock = 4 << 10
)

var errProxyProtocol = errors.New("malformed PROXY protocol header")

// introduction is what a PROXY protocol header says.
type introduction struct {
	local  bool           // the proxy speaks for itself: a health check
	source netip.AddrPort // for whom it speaks; not valid where it does not know
}

// readIntroduction reads a PROXY protocol header of version 1 or 2 from r, exactly.
func readIntroduction(r io.Reader) (introduction, error) {
	var buffer [proxyLine]byte
	// No header of either version is shorter than the shortest line, "PROXY UNKNOWN" CRLF.
	begin := buffer[:len("PROXY UNKNOWN\r\n")]
	if _, err := io.ReadFull(r, begin); err != nil {
		return introduction{}, err
	}
	switch {
	case bytes.HasPrefix(begin, []byte(proxySignature)):
		return readIntroduction2(r, buffer[:], len(begin))
	case !bytes.HasPrefix(begin, []byte("PROXY ")):
		return introduction{}, errProxyProtocol
	}
	line := begin
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == proxyLine {
			return introduction{}, errProxyProtocol
		}
		line = buffer[:len(line)+1]
		if _, err := io.ReadFull(r, line[len(line)-1:]); err != nil {
			return introduction{}, err
		}
	}
	return parseIntroduction(string(line[len("PROXY ") : len(line)-len("\r\n")]))
}

// parseIntroduction reads what version 1 says behind "PROXY ", without its CRLF.
func parseIntroduction(text string) (introduction, error) {
	family, rest, _ := strings.Cut(text, " ")
	if family == "UNKNOWN" { // whatever follows is to be ignored
		return introduction{}, nil
	}
	words := strings.Split(rest, " ") // two addresses, two ports, single spaces
	if family != "TCP4" && family != "TCP6" || len(words) != 4 {
		return introduction{}, errProxyProtocol
	}
	var ends [2]netip.AddrPort
	for i := range ends {
		address, err := netip.ParseAddr(words[i])
		port, ok := parseLength([]byte(words[i+2]))
		if err != nil || !ok || port > 65535 || address.Zone() != "" || address.Is4() != (family == "TCP4") {
			return introduction{}, errProxyProtocol
		}
		ends[i] = netip.AddrPortFrom(address.Unmap(), uint16(port))
	}
	return introduction{source: ends[0]}, nil
}

// readIntroduction2 reads the rest of a header of version 2, of which buffer holds n bytes.
func readIntroduction2(r io.Reader, buffer []byte, n int) (introduction, error) {
	head := buffer[:16]
	if _, err := io.ReadFull(r, head[n:]); err != nil {
		return introduction{}, err
	}
	command, family := head[12], head[13]
	length := int(binary.BigEndian.Uint16(head[14:]))
	if command>>4 != 2 || command&0xf > 1 || length > proxyBlock {
		return introduction{}, errProxyProtocol
	}
	size := 0 // of the two addresses and ports
	switch family {
	case 0x11: // TCP over IPv4
		size = 4 + 4 + 2 + 2
	case 0x21: // TCP over IPv6
		size = 16 + 16 + 2 + 2
	}
	if length < size {
		return introduction{}, errProxyProtocol
	}
	block := buffer[:size]
	if _, err := io.ReadFull(r, block); err != nil {
		return introduction{}, err
	}
	// The extensions are of no use here.
	if _, err := io.CopyN(io.Discard, r, int64(length-size)); err != nil {
		return introduction{}, err
	}
	switch {
	case command&0xf == 0:
		return introduction{local: true}, nil
	case size == 0: // UDP, a Unix socket, or unspecified
		return introduction{}, nil
	}
	width := (size - 4) / 2
	source, _ := netip.AddrFromSlice(block[:width])
	return introduction{source: netip.AddrPortFrom(source.Unmap(), binary.BigEndian.Uint16(block[2*width:]))}, nil
}

// usher accepts connections of trusted peers and has their headers read. It ends when the
// door is closed.
func (d *door) usher() {
	for {
		c, err := d.next()
		if err != nil {
			return
		}
		limits := d.o.limits()
		if !limits.trusted.has(peerOf(c.RemoteAddr())) {
			d.metrics.refused.WithLabelValues(string(badProxyProtocol)).Inc()
			_ = c.Close()
			continue
		}
		if !d.enter(c, limits) {
			continue
		}
		if !d.hold(c, false) {
			d.leave(netip.Addr{}, false)
			_ = c.Close()
			return
		}
		go d.introduce(c, limits) // Close waits for it: see hold
	}
}

// introduce reads the header of c, which is held, and hands the connection to Accept.
func (d *door) introduce(c net.Conn, l doorLimits) {
	defer d.letGo(c, false)
	_ = c.SetReadDeadline(time.Now().Add(l.readTimeout))
	said, err := readIntroduction(c)
	if err != nil {
		d.metrics.refused.WithLabelValues(string(badProxyProtocol)).Inc()
		d.o.log.Debug("cannot read a PROXY protocol header", "error", err)
		d.leave(netip.Addr{}, false)
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	t := d.transport(c, l, c.RemoteAddr())
	if !said.local {
		// Where the proxy does not know, neither do we: its own address would make the
		// client's fields trusted.
		t.peer = said.source.Addr()
		if t.peer.IsValid() {
			t.remote = net.TCPAddrFromAddrPort(said.source)
		}
	}
	if !d.seat(t, l) {
		return
	}
	d.mu.Lock()
	delete(d.waiting, c) // from here on Close leaves it to whom Accept gives it
	d.mu.Unlock()
	select {
	case d.ready <- t:
	case <-d.closed:
		_ = t.Close()
	}
}
