package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// loopback trusts this machine.
func loopback() trusted {
	return trusted{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}
}

func openProxyPorch(t *testing.T, limits doorLimits) *porch {
	if limits.connections == 0 {
		limits.connections = 100
	}
	limits.trusted, limits.readTimeout = loopback(), patience
	return openPorch(t, limits, func(o *doorOptions) { o.proxyProtocol = true })
}

// version2 is a header of version 2.
func version2(command, family byte, block string) string {
	return proxySignature + string([]byte{0x20 | command, family, byte(len(block) >> 8), byte(len(block))}) + block
}

const (
	block4 = "\xc0\x00\x02\x01" + "\xc0\x00\x02\x02" + "\x10\x00" + "\x01\xbb" // 192.0.2.1:4096 to 192.0.2.2:443
	block6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + "\x10\x00" + "\x01\xbb"
	extension = "\x04\x00\x03abc" // PP2_TYPE_NOOP
)

func TestProxyProtocol(t *testing.T) {
	p := openProxyPorch(t, doorLimits{})
	f := func(name, header, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			for _, pieces := range []int{len(header), 1} {
				c := p.dial("127.0.0.1")
				for rest := header; rest != ""; rest = rest[min(pieces, len(rest)):] {
					if _, err := io.WriteString(c, rest[:min(pieces, len(rest))]); err != nil {
						t.Fatal(err)
					}
				}
				if got := p.served(c); got != want {
					t.Errorf("peer %s, not %s", got, want)
				}
				_ = c.Close()
			}
		})
	}
	f("v1 TCP4", "PROXY TCP4 192.0.2.1 192.0.2.2 4096 443\r\n", "192.0.2.1 192.0.2.1:4096")
	f("v1 TCP6", "PROXY TCP6 2001:db8::1 2001:db8::2 4096 443\r\n", "2001:db8::1 [2001:db8::1]:4096")
	f("v1 TCP6, longest", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff [ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")
	f("v2 IPv4", version2(1, 0x11, block4), "192.0.2.1 192.0.2.1:4096")
	f("v2 IPv6", version2(1, 0x21, block6), "2001:db8::1 [2001:db8::1]:4096")
	f("v2 IPv6 of an IPv4 address", version2(1, 0x21, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01"+block6[16:]), "192.0.2.1 192.0.2.1:4096")
	f("v2 extensions", version2(1, 0x11, block4+strings.Repeat(extension, 600)), "192.0.2.1 192.0.2.1:4096")
	if got := p.refused(badProxyProtocol); got != 0 {
		t.Errorf("%v refused", got)
	}
}

// TestProxyProtocolReads: what the header means, to the byte where it ends.
func TestProxyProtocolReads(t *testing.T) {
	f := func(header string, want introduction) {
		t.Helper()
		for _, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader} {
			r := strings.NewReader(header + "GET / HTTP/1.1\r\n")
			got, err := readIntroduction(wrap(r))
			if err != nil || got != want {
				t.Errorf("%q: %+v, %v; want %+v", header, got, err, want)
			}
			if rest, _ := io.ReadAll(r); string(rest) != "GET / HTTP/1.1\r\n" {
				t.Errorf("%q: %q is left", header, rest)
			}
		}
	}
	known := introduction{source: netip.MustParseAddrPort("192.0.2.1:4096")}
	f("PROXY TCP4 192.0.2.1 192.0.2.2 4096 443\r\n", known)
	f("PROXY UNKNOWN\r\n", introduction{})
	f("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", introduction{})
	f(version2(1, 0x11, block4), known)
	f(version2(1, 0x00, ""), introduction{})
	f(version2(1, 0x00, extension), introduction{})
	f(version2(1, 0x12, block4), introduction{}) // UDP
	f(version2(1, 0x31, strings.Repeat("\x00", 216)), introduction{})
	f(version2(0, 0x00, ""), introduction{local: true})
	f(version2(0, 0x11, block4), introduction{local: true})

	bad := func(header string) {
		t.Helper()
		if got, err := readIntroduction(strings.NewReader(header)); err == nil {
			t.Errorf("%q is taken for %+v", header, got)
		}
	}
	bad("")
	bad("PROXY")
	bad("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	bad("PROXY TCP4 192.0.2.1 192.0.2.2 4096 443")
	bad("PROXY TCP4 192.0.2.1 192.0.2.2 4096 443\n\n\n\n" + strings.Repeat(" ", 200))
	bad("PROXY TCP4 192.0.2.1 192.0.2.2 4096\r\n")
	bad("PROXY TCP4 192.0.2.1 192.0.2.2 4096 443 1\r\n")
	bad("PROXY TCP4  192.0.2.1 192.0.2.2 4096 443\r\n")
	bad("PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n")
	bad("PROXY TCP4 192.0.2.1 192.0.2.2 -1 443\r\n")
	bad("PROXY TCP4 192.0.2 192.0.2.2 4096 443\r\n")
	bad("PROXY TCP4 2001:db8::1 2001:db8::2 4096 443\r\n")
	bad("PROXY TCP6 192.0.2.1 192.0.2.2 4096 443\r\n")
	bad("PROXY TCP6 fe80::1%eth0 2001:db8::2 4096 443\r\n")
	bad("PROXY TCP5 192.0.2.1 192.0.2.2 4096 443\r\n")
	bad("proxy TCP4 192.0.2.1 192.0.2.2 4096 443\r\n")
	bad("PROXY UNKNOWN " + strings.Repeat("x", 107) + "\r\n")
	bad(version2(2, 0x11, block4))
	bad(version2(1, 0x11, block4[1:]))
	bad(version2(1, 0x21, block4))
	bad(version2(1, 0x11, block4+strings.Repeat("\x00", proxyBlock)))
	bad(version2(1, 0x11, block4)[:20])
	bad(strings.Replace(version2(1, 0x11, block4), "\x21\x11", "\x11\x11", 1))
}

// TestProxyProtocolUnknown: where the proxy does not know for whom it speaks, its own
// address would make the client trusted.
func TestProxyProtocolUnknown(t *testing.T) {
	p := openProxyPorch(t, doorLimits{})
	f := func(header, want string) {
		t.Helper()
		c := p.dial("127.0.0.1")
		_, _ = io.WriteString(c, header)
		if got := p.served(c); got != want+" "+c.LocalAddr().String() {
			t.Errorf("%q: %s", header, got)
		}
	}
	f("PROXY UNKNOWN\r\n", "invalid IP")
	f(version2(1, 0x00, ""), "invalid IP")
	f(version2(0, 0x00, ""), "127.0.0.1") // LOCAL: the proxy itself
}

// refusesHeader expects the end of the connection, and nothing before it.
func (p *porch) refusesHeader(c net.Conn) {
	p.t.Helper()
	if got, err := io.ReadAll(c); len(got) > 0 {
		p.t.Errorf("read %q, %v", got, err)
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		p.t.Error("the connection stays open")
	}
}

func TestProxyProtocolRefuses(t *testing.T) {
	p := openProxyPorch(t, doorLimits{})
	bad := p.dial("127.0.0.1")
	_, _ = io.WriteString(bad, get("/a", as(callerA)))
	p.refusesHeader(bad)

	stranger := p.dial("127.0.0.2")
	_, _ = io.WriteString(stranger, "PROXY TCP4 192.0.2.1 192.0.2.2 4096 443\r\nhello\n")
	p.refusesHeader(stranger)
	if got := p.refused(badProxyProtocol); got != 2 {
		t.Errorf("%v refused", got)
	}
	until(t, "none left", func() bool { return p.open() == 0 })
}

// TestProxyProtocolSilence: who sends no header keeps nobody out, and is closed in time.
func TestProxyProtocolSilence(t *testing.T) {
	p := openProxyPorch(t, doorLimits{})
	limits := *p.limits.Load()
	limits.readTimeout = 200 * time.Millisecond
	p.limits.Store(&limits)
	silent, half := p.dial("127.0.0.1"), p.dial("127.0.0.1")
	_, _ = io.WriteString(half, "PROXY TCP4 192.0")
	c := p.dial("127.0.0.1")
	_, _ = io.WriteString(c, "PROXY TCP4 192.0.2.1 192.0.2.2 4096 443\r\n")
	p.served(c)
	p.refusesHeader(silent)
	p.refusesHeader(half)
	time.Sleep(limits.readTimeout) // the header's deadline is not the connection's
	p.served(c)

	limits.readTimeout = patience
	p.limits.Store(&limits)
	silent = p.dial("127.0.0.1")
	until(t, "it is inside", func() bool { return p.open() == 2 })
	begin := time.Now()
	_ = p.door.Close()
	if took := time.Since(begin); took > time.Second {
		t.Errorf("closing took %s", took)
	}
	p.refusesHeader(silent)
	p.served(c)
}

// TestProxyProtocolLimits: places are counted before the header, and to the address that
// the header names.
func TestProxyProtocolLimits(t *testing.T) {
	p := openProxyPorch(t, doorLimits{connections: 4, perAddress: 2})
	header := func(address string) net.Conn {
		c := p.dial("127.0.0.1")
		_, _ = io.WriteString(c, "PROXY TCP4 "+address+" 192.0.2.2 4096 443\r\n")
		return c
	}
	first := header("192.0.2.1")
	p.served(first)
	p.served(header("192.0.2.1"))
	p.turnedAway(header("192.0.2.1"))
	p.served(header("192.0.2.7"))
	p.dial("127.0.0.1")
	until(t, "it is inside", func() bool { return p.open() == 4 })
	p.turnedAway(header("192.0.2.9"))
	if one, other := p.refused(overAddressLimit), p.refused(overLimit); one != 1 || other != 1 {
		t.Errorf("%v and %v refused", one, other)
	}
	_ = first.Close()
	until(t, "one left", func() bool { return p.open() == 3 })
	p.served(header("192.0.2.1"))
}

// TestProxyProtocolBelowTLS: the header comes before the handshake.
func TestProxyProtocolBelowTLS(t *testing.T) {
	pki := newPKI(t)
	config, _, err := LoadTLS(TLSFiles{Certificate: pki.certificate, Key: pki.key})
	if err != nil {
		t.Fatal(err)
	}
	p := openProxyPorch(t, doorLimits{tls: config})
	c := p.dial("127.0.0.1")
	_, _ = io.WriteString(c, version2(1, 0x11, block4+extension))
	if got := p.served(tls.Client(c, pki.client())); got != "192.0.2.1 192.0.2.1:4096" {
		t.Errorf("peer %s", got)
	}
}

// TestProxyProtocolOfHAProxy: a real proxy says for whom it speaks, in both versions.
func TestProxyProtocolOfHAProxy(t *testing.T) {
	program := needs(t, "haproxy")
	for _, send := range []string{"send-proxy", "send-proxy-v2"} {
		t.Run(send, func(t *testing.T) {
			p := openProxyPorch(t, doorLimits{})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := l.Addr().String()
			_ = l.Close()
			file := filepath.Join(t.TempDir(), "haproxy.cfg")
			text := "defaults\n mode tcp\n timeout client 10s\n timeout server 10s\n timeout connect 10s\n" +
				"listen a\n bind " + address + "\n server s " + p.address + " " + send + "\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var output bytes.Buffer
			command := exec.Command(program, "-db", "-f", file)
			command.Stdout, command.Stderr = &output, &output
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
			var c net.Conn
			until(t, "haproxy listens", func() bool { c, err = net.Dial("tcp", address); return err == nil })
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(2 * patience))
			if got := p.served(c); got != "127.0.0.1 "+c.LocalAddr().String() {
				t.Errorf("peer %s, not %s; %s", got, c.LocalAddr(), output.String())
			}
		})
	}
}

// FuzzProxyProtocol: no header is read beyond its end or the bound, and none panics.
func FuzzProxyProtocol(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 4096 443\r\nGET"))
	f.Add([]byte(version2(1, 0x21, block6+extension)))
	f.Fuzz(func(t *testing.T, header []byte) {
		r := bytes.NewReader(header)
		said, err := readIntroduction(r)
		read := len(header) - r.Len()
		if read > 16+proxyBlock || err != nil && said != (introduction{}) {
			t.Errorf("%d bytes were read: %+v, %v", read, said, err)
		}
		if err == nil && header[0] == 'P' && !bytes.HasSuffix(header[:read], []byte("\r\n")) {
			t.Errorf("%q was read", header[:read])
		}
	})
}
