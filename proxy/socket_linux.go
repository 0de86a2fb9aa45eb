package proxy

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// hungUp reports whether the peer has closed its sending half, or the connection broke,
// whatever is still to be read from it.
func hungUp(raw syscall.RawConn) (gone bool) {
	err := raw.Control(func(fd uintptr) {
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p[:], 0)
		gone = err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}

// unsent is how many bytes the kernel takes for a peer beyond what is on its way. Without a
// bound it takes megabytes for each peer that does not read, and a few hundred of those use up
// the memory that all of the machine's connections share.
const unsent = 256 << 10

// boundUnsent sets the bound of a socket. One that has none, such as a Unix socket, goes without.
func boundUnsent(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
	})
}
