package proxy

import (
	"bufio"
	"bytes"
	"io/fs"
	"math"
	"path"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// spareDescriptors are for all but connections: the store, logs, listeners, those who are
// turned away.
const spareDescriptors = 64

// openFiles is how many descriptors this process may have.
func openFiles() (limit int, ok bool) {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return 0, false
	}
	return int(min(r.Cur, math.MaxInt32)), true
}

// ceiling is how many connections descriptors allow: a quarter of them is left for those to
// upstreams, which only requests in flight need. Where they all want one, some get 503.
func ceiling(descriptors func() (int, bool)) int {
	limit, ok := descriptors()
	if !ok {
		return math.MaxInt
	}
	return max(1, (limit-spareDescriptors)/4*3)
}

// memoryGuard says when memory is short: what lives passes 90 % of the limit, until it is
// below 80 % again.
type memoryGuard struct {
	limit uint64        // bytes; 0: none
	live  func() uint64 // bytes; liveMemory
	clean func()        // collects garbage; runtime.GC
	every time.Duration // between two looks
	over  atomic.Bool
}

// newMemoryGuard makes one for the limit that the Go runtime has (GOMEMLIMIT, or
// LimitMemory).
func newMemoryGuard() *memoryGuard {
	g := &memoryGuard{live: liveMemory, clean: runtime.GC, every: 100 * time.Millisecond}
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 { // a negative one only asks
		g.limit = uint64(max(limit, 1))
	}
	return g
}

// shedding reports whether memory is short. It may be called concurrently.
func (g *memoryGuard) shedding() bool { return g.over.Load() }

// run looks at the memory until stop is closed. Without a limit it returns at once.
func (g *memoryGuard) run(stop <-chan struct{}) {
	if g.limit == 0 {
		return
	}
	tick := time.NewTicker(g.every)
	defer tick.Stop()
	wait, since := 10, 0 // in ticks: from one collection of ours to the next
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if !g.look() {
			wait, since = 10, 0
			continue
		}
		// What lives is known from the last collection. While few requests come there may
		// be none for minutes, and nobody would be let in again.
		if since++; since >= wait {
			wait, since = min(2*wait, 100), 0
			g.clean()
		}
	}
}

// look compares once, and reports whether memory is short.
func (g *memoryGuard) look() bool {
	live := g.live()
	switch {
	case live > g.limit/10*9:
		g.over.Store(true)
	case live < g.limit/10*8:
		g.over.Store(false)
	}
	return g.over.Load()
}

// liveMemory is what cannot be given back: the objects that the last collection found
// alive, stacks, and the runtime's own. Garbage is not counted: a heap that is full of it
// is what the runtime makes of a limit, and no fault.
func liveMemory() uint64 {
	samples := [...]runtimemetrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/os-stacks:bytes"},
		{Name: "/memory/classes/metadata/mcache/inuse:bytes"},
		{Name: "/memory/classes/metadata/mspan/inuse:bytes"},
		{Name: "/memory/classes/metadata/other:bytes"},
		{Name: "/memory/classes/other:bytes"},
		{Name: "/memory/classes/profiling/buckets:bytes"},
	}
	runtimemetrics.Read(samples[:])
	sum := uint64(0)
	for i := range samples {
		if samples[i].Value.Kind() == runtimemetrics.KindUint64 {
			sum += samples[i].Value.Uint64()
		}
	}
	return sum
}

// LimitMemory gives the Go runtime 90 % of the memory limit of this process's cgroup
// (v2 or v1) as its own limit, unless GOMEMLIMIT in environ set one. root is the root of the file
// system. It returns the limit in bytes, 0 where there is none. It acts on the whole
// process: main calls it, once, before New.
func LimitMemory(environ []string, root fs.FS) int64 {
	for _, e := range environ {
		if value, ok := strings.CutPrefix(e, "GOMEMLIMIT="); ok && value != "" {
			if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
				return limit
			}
			return 0 // "off"
		}
	}
	limit := cgroupMemory(root)
	if limit == 0 {
		return 0
	}
	limit = limit / 10 * 9
	debug.SetMemoryLimit(limit)
	return limit
}

// cgroupMemory is the smallest memory limit of this process's cgroup and those above it,
// in bytes; 0: none. In a container the paths of /proc may be those of the host: then the
// cgroup that is mounted is the container's own.
func cgroupMemory(root fs.FS) int64 {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	least := int64(math.MaxInt64)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		_, rest, _ := strings.Cut(lines.Text(), ":")
		controllers, group, ok := strings.Cut(rest, ":")
		var mount, file string
		switch {
		case !ok:
			continue
		case controllers == "":
			mount, file = "sys/fs/cgroup", "memory.max"
		case strings.Contains(","+controllers+",", ",memory,"):
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for group = path.Clean("/" + group); ; group = path.Dir(group) {
			if n, ok := readLimit(root, path.Join(mount, group, file)); ok {
				least = min(least, n)
			}
			if group == "/" {
				break
			}
		}
	}
	if least >= 1<<62 { // v1 says "none" by a huge number
		return 0
	}
	return least
}

// readLimit reads a number of bytes; "max" is none.
func readLimit(root fs.FS, name string) (int64, bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil && n > 0
}
