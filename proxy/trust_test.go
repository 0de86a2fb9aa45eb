package proxy

import (
	"net/netip"
	"strings"
	"testing"
)

func TestTrustedClient(t *testing.T) {
	proxies := trusted{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("192.0.2.1/32")}
	// The lines of a field are parted by "|".
	lines := func(name, text string) (all []field) {
		for _, l := range strings.Split(text, "|") {
			if text != "" {
				all = append(all, field{[]byte(name), []byte(l)})
			}
		}
		return all
	}
	f := func(name, peer, forwardedFor, forwarded, want string) {
		t.Helper()
		hops := append(lines("X-Forwarded-For", forwardedFor), lines("FORWARDED", forwarded)...)
		got := proxies.client(netip.MustParseAddr(peer), append(hops, lines("Via", "1.1 10.0.0.1")...))
		if got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
	f("untrusted", "203.0.113.9", "198.51.100.1", "for=198.51.100.1", "203.0.113.9")
	f("trusted without fields", "10.0.0.1", "", "", "10.0.0.1")
	f("one", "10.0.0.1", "198.51.100.1", "", "198.51.100.1")
	f("a claim before it", "10.0.0.1", "127.0.0.1, 198.51.100.1", "", "198.51.100.1")
	f("a trusted claim before it", "10.0.0.1", "10.9.9.9, 198.51.100.1", "", "198.51.100.1")
	f("a chain of proxies", "10.0.0.1", "198.51.100.7, 198.51.100.1, 10.0.0.3, 192.0.2.1", "", "198.51.100.1")
	f("several lines", "10.0.0.1", "198.51.100.7|198.51.100.1, 10.0.0.3|10.0.0.2", "", "198.51.100.1")
	f("proxies alone", "10.0.0.1", "10.0.0.4, 10.0.0.3", "", "10.0.0.4")
	f("a neighbour of a trusted one", "10.0.0.1", "198.51.100.1, 192.0.2.2", "", "192.0.2.2")
	f("malformed at the end", "10.0.0.1", "198.51.100.1, nonsense", "", "10.0.0.1")
	f("malformed behind good ones", "10.0.0.1", "198.51.100.1, nonsense, 10.0.0.3", "", "10.0.0.3")
	f("empty elements", "10.0.0.1", " , 198.51.100.1,\t, ", "", "198.51.100.1")
	f("an empty line", "10.0.0.1", "198.51.100.1|", "", "198.51.100.1")
	f("ports", "10.0.0.1", "198.51.100.7, 198.51.100.1:4711, 10.0.0.2:1", "", "198.51.100.1")
	f("IPv6", "2001:db8::1", "2001:db9::7, 2001:db8:1::1", "", "2001:db9::7")
	f("IPv6 in brackets", "10.0.0.1", "[2001:db9::7]", "", "2001:db9::7")
	f("IPv6 with a port", "10.0.0.1", "[2001:db9::7]:4711", "", "2001:db9::7")
	f("IPv4 in IPv6", "::ffff:10.0.0.1", "::ffff:198.51.100.1, ::ffff:10.0.0.2", "", "198.51.100.1")
	for _, bad := range []string{"unknown", "_hidden", "198.51.100", "198.51.100.1:", "198.51.100.1:x", "198.51.100.1:65536", "[198.51.100.1]", "[2001:db9::7",
		"[2001:db9::7]4711", "fe80::1%eth0", "198.51.100.1 10.0.0.1", `"198.51.100.1"`, "0x7f.1", "127.1", strings.Repeat("1", 60), "for=198.51.100.1", ":", "["} {
		f("bad "+bad, "10.0.0.1", bad, "", "10.0.0.1")
	}
	f("Forwarded", "10.0.0.1", "", "for=198.51.100.1", "198.51.100.1")
	f("Forwarded, all of it", "10.0.0.1", "", `for=198.51.100.7, proto=https;For="198.51.100.1:80";by=_x, for="[2001:db8::1]:80"`, "198.51.100.1")
	f("Forwarded IPv6", "10.0.0.1", "", `for="[2001:db9::7]"`, "2001:db9::7")
	f("Forwarded unknown", "10.0.0.1", "", "for=198.51.100.1, for=unknown", "10.0.0.1")
	f("Forwarded obfuscated", "10.0.0.1", "", "for=198.51.100.1, for=_a", "10.0.0.1")
	f("Forwarded without for", "10.0.0.1", "", "for=198.51.100.1, proto=https", "10.0.0.1")
	f("Forwarded with quotes that the client left open", "10.0.0.1", "", `for="1, for=198.51.100.1`, "198.51.100.1")
	f("Forwarded with quoted separators", "10.0.0.1", "", `host="a,;b";for=198.51.100.1`, "198.51.100.1")
	f("both: X-Forwarded-For counts", "10.0.0.1", "198.51.100.1", "for=198.51.100.2", "198.51.100.1")

	if proxies.has(netip.Addr{}) || (trusted{netip.MustParsePrefix("0.0.0.0/0")}).has(netip.Addr{}) {
		t.Error("no address is trusted")
	}
	if !(trusted{netip.MustParsePrefix("fe80::/10")}).has(netip.MustParseAddr("fe80::1%eth0")) {
		t.Error("a zone hides an address")
	}
	if got := proxies.client(netip.Addr{}, lines("X-Forwarded-For", "198.51.100.1")); got.IsValid() {
		t.Errorf("an unknown peer: %s", got)
	}
}

func TestTrustedClientAllocatesNothing(t *testing.T) {
	proxies := trusted{netip.MustParsePrefix("10.0.0.0/8")}
	peer := netip.MustParseAddr("10.0.0.1")
	hops := []field{{[]byte("x-forwarded-for"), []byte("198.51.100.1, 10.0.0.2")}}
	if n := testing.AllocsPerRun(100, func() { proxies.client(peer, hops) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParseIPv4 compares with the standard library.
func FuzzParseIPv4(f *testing.F) {
	for _, seed := range []string{"198.51.100.1", "1.2.3.04", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1..2.3", "::1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := parseIPv4([]byte(text))
		want, err := netip.ParseAddr(text)
		if ok != (err == nil && want.Is4()) || ok && got != want {
			t.Errorf("%q: %s, %v; want %s, %v", text, got, ok, want, err)
		}
	})
}
