package limiter

import "syscall"

// attributes make a program end when the test's process does, however it does.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
