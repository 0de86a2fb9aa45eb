//go:build !linux

package proxy

import "syscall"

// hungUp reports whether the peer has closed its sending half and all that it sent was
// read, or the connection broke.
func hungUp(raw syscall.RawConn) (gone bool) {
	err := raw.Control(func(fd uintptr) {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
	})
	return gone || err != nil
}

// boundUnsent does nothing here.
func boundUnsent(syscall.RawConn) {}
