package proxy

import (
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// TestTrailersAreNamedInAnyCase: as the settings write them, so do both sides read them,
// and no other field comes with them.
func TestTrailersAreNamedInAnyCase(t *testing.T) {
	for _, configured := range []string{"X-Sum", "x-sum", "X-SUM"} {
		f := start(t, func(o *Options) { o.Routes[1].Trailers = []string{configured} })
		f.upstream.answers(func(c net.Conn, _ *message) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Client-Id\r\n\r\n"+
				"2\r\nok\r\n0\r\nx-Sum: 1\r\nX-Client-Id: evil\r\nX_Sum: 2\r\n\r\n")
		})
		m := f.ask(request("POST", "/public", "Transfer-Encoding: chunked", "Trailer: X-Sum") +
			"2\r\nin\r\n0\r\nX-sum: 3\r\nX-Client-Id: evil\r\nX.Sum: 4\r\n\r\n")
		if want := []line{{configured, "1"}}; m.content != "ok" || !strings.EqualFold(m.get("Trailer"), "x-sum") || !slices.Equal(m.trailer, want) {
			t.Errorf("%s: answered %q", configured, m.raw)
		}
		got := f.upstream.received()
		if want := []line{{configured, "3"}}; len(got) != 1 || !strings.EqualFold(got[0].get("Trailer"), "x-sum") || !slices.Equal(got[0].trailer, want) {
			t.Errorf("%s: the upstream received %v", configured, got)
		}
	}
}
