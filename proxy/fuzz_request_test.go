package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// from is a connection from which data comes, in pieces of a size.
type from struct {
	nowhere
	data  []byte
	piece int
}

func (f *from) Read(p []byte) (int, error) {
	if len(f.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.data[:min(len(f.data), f.piece)])
	f.data = f.data[n:]
	return n, nil
}

func (*from) Write(p []byte) (int, error) { return len(p), nil }

// FuzzRequest: whatever request we accept, net/http reads of the same bytes the same
// method, target, host and content, and takes the same byte for the first of the next
// request. In how many pieces the bytes come changes nothing.
func FuzzRequest(f *testing.F) {
	for i, text := range mutations() {
		if i%64 == 0 {
			f.Add([]byte(text+marker), uint16(i))
		}
	}
	front := unserved(f)
	f.Fuzz(func(t *testing.T, data []byte, piece uint16) {
		c := newClientConn(front, &from{data: bytes.Clone(data), piece: int(piece) + 1})
		s := front.state.Load()
		if !c.nextHead() || c.fault != noFault {
			return
		}
		var h head
		if _, ok := h.check(c.head(), s); !ok {
			return
		}
		method, target, host := string(h.method), string(h.target), string(h.host)
		c.begin(&h)
		var content bytes.Buffer
		scratch := make([]byte, 100)
		for {
			n, err := c.readContent(scratch)
			content.Write(scratch[:n])
			if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			if err != nil {
				return
			}
		}
		all := bufio.NewReaderSize(bytes.NewReader(data), len(data)+1)
		r, err := http.ReadRequest(all)
		if err != nil {
			if strings.Contains(err.Error(), "bad trailer key") { // what Trailer says is not looked at
				return
			}
			t.Fatalf("net/http cannot read the head of %q: %v", data, err)
		}
		theirs, err := io.ReadAll(r.Body)
		if err != nil {
			if strings.Contains(err.Error(), "line too long") {
				return
			}
			t.Fatalf("net/http cannot read the content of %q: %v", data, err)
		}
		if r.Method != method || r.URL.RequestURI() != target && r.RequestURI != target || r.Host != host {
			t.Errorf("we read %q %q %q of %q, net/http %q %q %q", method, target, host, data, r.Method, r.RequestURI, r.Host)
		}
		if !bytes.Equal(theirs, content.Bytes()) {
			t.Errorf("we read the content %q of %q, net/http %q", content.Bytes(), data, theirs)
		}
		rest, _ := io.ReadAll(all)
		ours := append(bytes.Clone(c.rest()), c.Conn.(*from).data...)
		if !bytes.Equal(rest, ours) {
			t.Errorf("the next request of %q is %q, for net/http %q", data, ours, rest)
		}
	})
}
