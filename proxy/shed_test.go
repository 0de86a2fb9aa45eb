package proxy

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

func TestCeiling(t *testing.T) {
	f := func(files int, ok bool, want int) {
		t.Helper()
		if got := ceiling(func() (int, bool) { return files, ok }); got != want {
			t.Errorf("%d files: %d connections, not %d", files, got, want)
		}
	}
	f(1024, true, 720)
	f(20_064, true, 15_000)
	f(10, true, 1)
	f(0, false, math.MaxInt)
	if n, ok := openFiles(); !ok || n < 64 {
		t.Errorf("%d open files, %v", n, ok)
	}
}

// TestMemoryGuard: shed above 90 %, until below 80 %, and collect garbage to find out.
func TestMemoryGuard(t *testing.T) {
	var live atomic.Uint64
	var collections atomic.Int32
	g := &memoryGuard{limit: 1000, live: live.Load, clean: func() { collections.Add(1) }, every: time.Millisecond}
	for _, step := range []struct {
		live uint64
		over bool
	}{{0, false}, {900, false}, {901, true}, {850, true}, {800, true}, {799, false}, {850, false}, {5000, true}, {0, false}} {
		live.Store(step.live)
		if g.look() != step.over || g.shedding() != step.over {
			t.Errorf("at %d: %v", step.live, g.shedding())
		}
	}
	stop := make(chan struct{})
	var own sync.WaitGroup
	own.Go(func() { g.run(stop) })
	live.Store(950)
	until(t, "it sheds", g.shedding)
	until(t, "garbage is collected", func() bool { return collections.Load() > 1 })
	live.Store(1)
	until(t, "it sheds no more", func() bool { return !g.shedding() })
	close(stop)
	own.Wait()
	(&memoryGuard{}).run(nil) // without a limit there is nothing to do
}

func TestLiveMemory(t *testing.T) {
	debug.FreeOSMemory() // what other tests left
	before := liveMemory()
	ballast := make([]byte, 64<<20)
	debug.FreeOSMemory()
	if grown := int64(liveMemory()) - int64(before); grown < 56<<20 {
		t.Errorf("%d bytes more", grown)
	}
	runtime.KeepAlive(ballast)
	ballast = nil
	debug.FreeOSMemory()
	if now := liveMemory(); now > before+16<<20 {
		t.Errorf("%d bytes, before it were %d", now, before)
	}
}

func TestLimitMemory(t *testing.T) {
	f := func(name string, want int64, files ...string) {
		t.Helper()
		root := fstest.MapFS{}
		for _, file := range files {
			path, text, _ := strings.Cut(file, " ")
			root[path] = &fstest.MapFile{Data: []byte(text + "\n")}
		}
		if got := cgroupMemory(root); got != want {
			t.Errorf("%s: %d, not %d", name, got, want)
		}
	}
	const group = "proc/self/cgroup "
	f("no cgroup", 0)
	f("v2 in a container", 128, group+"0::/", "sys/fs/cgroup/memory.max 128")
	f("v2 without a limit", 0, group+"0::/a", "sys/fs/cgroup/a/memory.max max")
	f("v2 of a service", 200, group+"0::/system.slice/postern.service", "sys/fs/cgroup/system.slice/postern.service/memory.max 200")
	f("v2, the smallest counts", 100, group+"0::/a/b", "sys/fs/cgroup/a/b/memory.max 300", "sys/fs/cgroup/a/memory.max 100", "sys/fs/cgroup/memory.max max")
	f("v2 with a path of the host", 128, group+"0::/kubepods/pod1", "sys/fs/cgroup/memory.max 128")
	f("v1", 128, group+"5:cpu,cpuacct:/x\n4:memory:/a\n0::/", "sys/fs/cgroup/memory/a/memory.limit_in_bytes 128", "sys/fs/cgroup/memory/memory.limit_in_bytes 9223372036854771712")
	f("v1 in a container", 64, group+"4:memory:/docker/abc", "sys/fs/cgroup/memory/memory.limit_in_bytes 64")
	f("v1 without a limit", 0, group+"4:memory:/", "sys/fs/cgroup/memory/memory.limit_in_bytes 9223372036854771712")
	f("nonsense", 0, group+"x\n0::/", "sys/fs/cgroup/memory.max lots")
	f("leading upwards", 7, group+"0::/../../..", "sys/fs/cgroup/memory.max 7")

	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	root := fstest.MapFS{"proc/self/cgroup": {Data: []byte("0::/\n")}, "sys/fs/cgroup/memory.max": {Data: []byte("1073741824\n")}}
	if got := LimitMemory([]string{"GOMEMLIMIT=off"}, root); got != 0 && before == math.MaxInt64 || debug.SetMemoryLimit(-1) != before {
		t.Errorf("GOMEMLIMIT is overridden: %d", got)
	}
	if got := LimitMemory([]string{"GOMEMLIMIT="}, root); got != 966367635 && got != 966367638 || debug.SetMemoryLimit(-1) != got {
		t.Errorf("limit %d, %d", got, debug.SetMemoryLimit(-1))
	}
	if g := newMemoryGuard(); g.limit != uint64(debug.SetMemoryLimit(-1)) {
		t.Errorf("the guard's limit is %d", g.limit)
	}
}

// child runs this test once more in a process of its own: there run is called, here child
// returns with that process's standard input and output. It is told to end at the
// end of the test, and must not have failed by then.
func child(t *testing.T, environ []string, run func(in *bufio.Scanner)) (in io.Writer, out *bufio.Scanner) {
	t.Helper()
	const mark = "POSTERN_TEST_CHILD"
	if os.Getenv(mark) == t.Name() {
		run(bufio.NewScanner(os.Stdin))
		return nil, nil
	}
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	c.Env = append(append(os.Environ(), mark+"="+t.Name()), environ...)
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	out = bufio.NewScanner(stdout)
	t.Cleanup(func() {
		_ = stdin.Close()
		rest := ""
		for out.Scan() {
			rest += out.Text() + "\n"
		}
		if err := c.Wait(); err != nil {
			t.Errorf("the child: %v\n%s", err, rest)
		}
	})
	return stdin, out
}

// says waits for the child's line that begins with this word, and returns what follows.
func says(t *testing.T, out *bufio.Scanner, word string) string {
	t.Helper()
	for out.Scan() {
		if rest, ok := strings.CutPrefix(out.Text(), word+" "); ok {
			return rest
		}
		t.Logf("child: %s", out.Text())
	}
	t.Fatalf("the child has ended and not said %q: %v", word, out.Err())
	return ""
}

// TestRow171Descriptors: the limit of open files is hit. Whoever is too many is told so;
// the others are served, and so is everybody when there are descriptors again.
func TestRow171Descriptors(t *testing.T) {
	_, out := child(t, nil, func(in *bufio.Scanner) {
		used, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		// A door that knows nothing of the limit, as where other things took the descriptors.
		p := openPorch(t, doorLimits{connections: 1000}, func(o *doorOptions) { o.descriptors = func() (int, bool) { return 0, false } })
		limit := syscall.Rlimit{Cur: uint64(len(used) + 12), Max: uint64(len(used) + 12)}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		fmt.Println("address", p.address)
		in.Scan() // to the end of the test
		fmt.Println("refused", p.refused(outOfDescriptors) > 0, strings.Count(p.log.String(), "too many open files"))
	})
	if out == nil {
		return
	}
	p := &porch{t: t, address: says(t, out, "address")}
	var inside []net.Conn
	refused := 0
	for range 30 {
		c := p.dial("")
		_, _ = io.WriteString(c, "hello\n")
		r := bufio.NewReader(c)
		first, err := r.ReadString('\n')
		switch {
		case strings.HasPrefix(first, "hello "):
			inside = append(inside, c)
		case first == "HTTP/1.1 503 Service Unavailable\r\n":
			if rest, err := io.ReadAll(r); err != nil || !strings.Contains(string(rest), `"code":"unavailable"`) {
				t.Errorf("%q, %v", rest, err)
			}
			refused++
		default:
			t.Fatalf("read %q, %v, after %d served and %d refused", first, err, len(inside), refused)
		}
	}
	if len(inside) < 5 || refused < 5 {
		t.Errorf("%d served, %d refused", len(inside), refused)
	}
	for _, c := range inside {
		p.served(c)
		_ = c.Close()
	}
	until(t, "it serves again", func() bool {
		c := p.dial("")
		defer c.Close()
		_, _ = io.WriteString(c, "hello\n")
		first, _ := bufio.NewReader(c).ReadString('\n')
		return strings.HasPrefix(first, "hello ")
	})
}

// TestRow171DescriptorsOfAFront: a front lets in whom it can serve, and leaves a quarter of
// the descriptors for the upstream.
func TestRow171DescriptorsOfAFront(t *testing.T) {
	const places = 12
	_, out := child(t, nil, func(in *bufio.Scanner) {
		limit := syscall.Rlimit{Cur: spareDescriptors + places/3*4, Max: spareDescriptors + places/3*4}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		f := start(t)
		fmt.Println("address", f.address)
		in.Scan() // to the end of the test
		if n := f.metrics()["postern_connections_refused_total{reason=descriptors}"]; n < places {
			t.Errorf("%v refused", n)
		}
	})
	if out == nil {
		return
	}
	f := &fixture{t: t, address: says(t, out, "address")}
	asks := func() (*connection, int) {
		c := f.dial().send(get("/a", as(callerA)))
		return c, c.read("GET").status()
	}
	var inside []*connection
	for i := range 2 * places {
		c, status := asks()
		if want := map[bool]int{true: 200, false: 503}[i < places]; status != want {
			t.Fatalf("connection %d: %d, not %d", i, status, want)
		}
		inside = append(inside, c)
	}
	for _, c := range inside[:places] {
		if m := c.send(get("/a", as(callerA))).read("GET"); m.status() != 200 {
			t.Errorf("answered %q", m.raw)
		}
		_ = c.Close()
	}
	until(t, "it serves again", func() bool {
		c, status := asks()
		_ = c.Close()
		return status == 200
	})
}

// TestRow171Memory: of 128 MiB more than 90 % live. New connections are told so until it
// is less; those inside are served.
func TestRow171Memory(t *testing.T) {
	in, out := child(t, []string{"GOMEMLIMIT=128MiB"}, func(in *bufio.Scanner) {
		g := newMemoryGuard()
		if g.limit != 128<<20 {
			t.Fatalf("limit %d", g.limit)
		}
		stop := make(chan struct{})
		var own sync.WaitGroup
		own.Go(func() { g.run(stop) })
		defer own.Wait()
		defer close(stop)
		p := openPorch(t, doorLimits{connections: 1000}, func(o *doorOptions) { o.shedding = g.shedding })
		fmt.Println("address", p.address)
		var ballast [][]byte
		for in.Scan() {
			switch in.Text() {
			case "grow":
				for range 122 {
					ballast = append(ballast, make([]byte, 1<<20))
				}
			case "shrink":
				clear(ballast)
				ballast = ballast[:0]
			}
		}
	})
	if out == nil {
		return
	}
	p := &porch{t: t, address: says(t, out, "address")}
	asks := func() string {
		c := p.dial("")
		defer c.Close()
		_, _ = io.WriteString(c, "hello\n")
		first, _ := bufio.NewReader(c).ReadString('\n')
		return first
	}
	inside := p.dial("")
	p.served(inside)
	_, _ = io.WriteString(in, "grow\n")
	until(t, "it sheds", func() bool { return asks() == "HTTP/1.1 503 Service Unavailable\r\n" })
	p.served(inside)
	_, _ = io.WriteString(in, "shrink\n")
	until(t, "it sheds no more", func() bool { return strings.HasPrefix(asks(), "hello ") })
	p.served(inside)
}
