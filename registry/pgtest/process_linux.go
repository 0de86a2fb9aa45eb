package pgtest

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// attributes make the server end when the test's process does, however it does.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT} }

// status is state and parent of a process.
func status(pid int) (state byte, parent int, ok bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, false
	}
	// The name in brackets may hold spaces.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 || len(fields[0]) != 1 {
		return 0, 0, false
	}
	parent, err = strconv.Atoi(string(fields[1]))
	return fields[0][0], parent, err == nil
}

// children are the processes whose parent is pid.
func children(pid int) (found []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if state, parent, ok := status(child); ok && parent == pid && state != 'Z' {
			found = append(found, child)
		}
	}
	return found
}

// exited reports whether a process has ended, waited for or not.
func exited(pid int) bool {
	state, _, ok := status(pid)
	return !ok || state == 'Z' || state == 'X'
}
