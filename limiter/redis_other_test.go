//go:build unix && !linux

package limiter

import "syscall"

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
