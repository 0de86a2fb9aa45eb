package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestRow120MutationsAtEachUpstream: whatever bytes a client sends, a real upstream sees
// exactly the requests that postern judged, no more and no fewer. Three accounts of them
// must be one: postern's access lines, a strict reading of the bytes that it wrote, and
// what the upstream says. The client gets one answer for each.
//
// Each mutation comes from an address of its own, which postern tells the upstream: that
// names the client of each request, and a request that nobody judged has none.
func TestRow120MutationsAtEachUpstream(t *testing.T) {
	all := mutations()
	if len(all) < 1500 {
		t.Fatalf("only %d mutations", len(all))
	}
	if l, err := net.Listen("tcp", clientAddress(0)+":0"); err != nil {
		t.Skipf("SKIPPED: this system has no addresses of its own beside 127.0.0.1: %v", err)
	} else {
		_ = l.Close()
	}
	for name, startPeer := range startPeers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newTrial(t, startPeer(t)).run(all)
		})
	}
}

// marker comes behind each mutation and ends its connection.
var marker = get("/public/marker", "Connection: close")

// slowest is how long anything may take on a busy machine that runs all peers.
const slowest = 6 * patience

// trial is one front before one peer, with a tap between them.
type trial struct {
	t     *testing.T
	peer  peer
	tap   *tap
	front *fixture

	mu      sync.Mutex
	answers map[string][]int // by client: the statuses that it saw
}

func newTrial(t *testing.T, p peer) *trial {
	tr := &trial{t: t, peer: p, tap: newTap(t, p.address()), answers: map[string][]int{}}
	tr.front = start(t, func(o *Options) {
		o.Routes = routes(tr.tap.address)
		for i := range o.Routes { // other methods are what some peers take for no request at all
			o.Routes[i].Methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
			o.Routes[i].Timeout, o.Routes[i].Stall = slowest, slowest
			o.Routes[i].Trailers = []string{"X-A"}
			o.Routes[i].WebSocket = WebSocket{Enabled: true, Idle: slowest} // which no peer agrees to
		}
		o.ReadTimeout = 300 * time.Millisecond // what is not whole never will be
	})
	return tr
}

// clientAddress of a mutation: all of 127.0.0.0/8 is this machine.
func clientAddress(i int) string { return fmt.Sprintf("127.1.%d.%d", i/250, 1+i%250) }

func (tr *trial) run(all []string) {
	var clients sync.WaitGroup
	next := make(chan int)
	for range 50 {
		clients.Go(func() {
			for i := range next {
				tr.send(clientAddress(i), all[i]+marker)
			}
		})
	}
	for i := range all {
		next <- i
	}
	close(next)
	clients.Wait()
	judged := tr.judged()
	written := tr.tap.requests()
	tr.settle(len(written))
	reported := byClient(tr.peer.requests())

	sent := byClient(written)
	forwarded, refused := 0, 0
	for i, text := range all {
		client := clientAddress(i)
		for _, j := range judged[client] {
			if j.Reason == "ok" {
				forwarded++
			} else {
				refused++
			}
		}
		if fault := compare(tr.answers[client], judged[client], sent[client], reported[client]); fault != "" {
			tr.t.Errorf("%.500q: %s", text, fault)
		}
		delete(reported, client)
	}
	for client, requests := range reported {
		tr.t.Errorf("nobody judged a request of %q: %+v", client, requests)
	}
	tr.t.Logf("%d mutations: %d requests were forwarded, %d were refused", len(all), forwarded, refused)
	if forwarded < len(all)/8 || refused < len(all)/3 {
		tr.t.Error("the grammar has lost its balance")
	}
}

// send sends text from address and notes the answers until the front hangs up.
func (tr *trial) send(address, text string) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: patience}
	c, err := d.Dial("tcp", tr.front.address)
	if err != nil {
		tr.t.Errorf("dial from %s: %v", address, err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(slowest))
	_, _ = io.WriteString(c, text)
	answer, err := io.ReadAll(c)
	if isTimeout(err) {
		tr.t.Errorf("%.500q: no end came behind %q", text, answer)
	}
	var statuses []int
	for _, rest := range strings.Split(string(answer), "HTTP/1.1 ")[1:] {
		if m := (&message{start: "HTTP/1.1 " + rest}); m.status() >= 200 {
			statuses = append(statuses, m.status())
		}
	}
	tr.mu.Lock()
	tr.answers[address] = statuses
	tr.mu.Unlock()
}

// judgement is an access line.
type judgement struct {
	Peer, Method, Path, Route, Reason string
	Status                            int
}

// judged stops the front and returns what it judged, by client.
func (tr *trial) judged() map[string][]judgement {
	all := map[string][]judgement{}
	for _, line := range tr.front.lines() {
		var j judgement
		if err := json.Unmarshal([]byte(line), &j); err != nil {
			tr.t.Fatalf("%s: %v", line, err)
		}
		all[j.Peer] = append(all[j.Peer], j)
	}
	return all
}

// settle waits until the peer has told of so many requests, and a little longer for one
// that should not be there.
func (tr *trial) settle(want int) {
	for deadline := time.Now().Add(slowest); len(tr.peer.requests()) < want && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
}

func byClient(requests []seen) map[string][]seen {
	all := map[string][]seen{}
	for _, s := range requests {
		all[s.Client] = append(all[s.Client], s)
	}
	return all
}

// compare says in what the accounts of one client differ.
func compare(answers []int, judged []judgement, written, reported []seen) string {
	var statuses []int
	var ok, whole []string
	refused := 0
	for _, j := range judged {
		statuses = append(statuses, j.Status)
		if j.Reason == "ok" {
			ok = append(ok, j.Method+" "+j.Path)
		} else if j.Route != noRoute {
			refused++
		}
	}
	for _, s := range written {
		if s.Whole {
			path, _, _ := strings.Cut(s.Target, "?")
			whole = append(whole, s.Method+" "+path)
		}
	}
	slices.Sort(ok)
	slices.Sort(whole)
	if !slices.Equal(statuses, answers) {
		return fmt.Sprintf("judged %+v, the client saw %d", judged, answers)
	}
	if !slices.Equal(ok, whole) {
		return fmt.Sprintf("judged %+v, written were %+v", judged, written)
	}
	return compareContent(written, reported, refused)
}

// compareContent says in what the peer's account differs from what was written. A request
// whose content ends too early is one that postern refused while it was on its way.
func compareContent(written, reported []seen, refused int) string {
	var whole, heard []string
	cut := 0
	for _, s := range written {
		if s.Whole {
			whole = append(whole, fmt.Sprintf("%+v", s))
		}
	}
	for _, s := range reported {
		switch {
		case s.Whole:
			heard = append(heard, fmt.Sprintf("%+v", s))
		case s.Refused != "":
			return fmt.Sprintf("the peer refused %+v", s)
		default:
			cut++
		}
	}
	slices.Sort(whole)
	slices.Sort(heard)
	if !slices.Equal(whole, heard) {
		return fmt.Sprintf("written were %+v, the peer saw %+v", written, reported)
	}
	if cut > refused {
		return fmt.Sprintf("the peer saw %d requests cut off, postern refused %d", cut, refused)
	}
	return ""
}

// tap stands before a peer and keeps what is written to it.
type tap struct {
	address string
	peer    string
	running sync.WaitGroup

	mu    sync.Mutex
	bytes []*strings.Builder // of each connection
	open  []net.Conn
}

func newTap(t *testing.T, peer string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{address: l.Addr().String(), peer: peer}
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.pass(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.open {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.running.Wait()
	})
	return p
}

func (p *tap) pass(c net.Conn) {
	up, err := net.Dial("tcp", p.peer)
	if err != nil {
		_ = c.Close()
		return
	}
	kept := &strings.Builder{}
	p.mu.Lock()
	p.bytes, p.open = append(p.bytes, kept), append(p.open, c, up)
	p.mu.Unlock()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(c, up)
		_ = c.Close()
	})
	_, _ = io.Copy(up, io.TeeReader(c, locked{kept, &p.mu}))
	_ = up.Close()
	back.Wait()
}

type locked struct {
	w  io.Writer
	mu *sync.Mutex
}

func (l locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// requests reads strictly what was written until now.
func (p *tap) requests() (all []seen) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, text := range p.bytes {
		for r := newRecorder(strings.NewReader(text.String())); ; {
			m, err := r.request()
			if m.start == "" {
				break
			}
			parts := strings.Split(m.start, " ")
			s := seen{Client: m.get("X-Forwarded-For"), Method: parts[0], Target: parts[1], Length: int64(len(m.content)), Whole: err == nil}
			if s.Whole {
				sum := sha256.Sum256([]byte(m.content))
				s.Sum = hex.EncodeToString(sum[:])
			}
			all = append(all, s)
			if err != nil {
				break
			}
		}
	}
	return all
}
