//go:build unix && !linux

package pgtest

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// processes calls f with each process, until f says that it has seen enough.
func processes(f func(pid, parent int, state string) (enough bool)) {
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=,state=").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		pid, _ := strconv.Atoi(fields[0])
		parent, _ := strconv.Atoi(fields[1])
		if f(pid, parent, fields[2]) {
			return
		}
	}
}

// children are the processes whose parent is pid.
func children(pid int) (found []int) {
	processes(func(child, parent int, state string) bool {
		if parent == pid && !strings.HasPrefix(state, "Z") {
			found = append(found, child)
		}
		return false
	})
	return found
}

// exited reports whether a process has ended, waited for or not.
func exited(pid int) bool {
	gone := true
	processes(func(one, _ int, state string) bool {
		gone = one != pid || strings.HasPrefix(state, "Z")
		return one == pid
	})
	return gone
}
