// Package pod runs what the Helm charts render in a real pod, by podman and runc, and looks at it from outside.
//
// It needs root, podman, runc, netavark, catatonit and iptables, and is no part of `go test ./...` of postern: make pod
// runs it. Start reading at TestPod; what the kubelet would do with the chart's manifest is in manifest_test.go.
package pod

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

const work = "POSTERN_POD_WORK" // the working directory, for the tests that run inside

// TestMain runs the tests in namespaces of their own: whatever becomes of them, the containers, mounts, bridges and
// firewall rules end with their first process.
func TestMain(m *testing.M) {
	if os.Getenv(work) != "" {
		if err := moveIn(); err != nil {
			fmt.Println("FAIL: the tests cannot settle in their namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if missing := missing(); missing != "" {
		if os.Getenv("CI") == "true" {
			fmt.Println("FAIL: " + missing + ", and this is CI")
			os.Exit(1)
		}
		fmt.Println("SKIPPED: " + missing)
		return
	}
	if err := runInside(); err != nil {
		fmt.Println("FAIL:", err)
		os.Exit(1)
	}
}

// missing says what this machine lacks.
func missing() string {
	if os.Getuid() != 0 {
		return "run this as root: containers get namespaces, mounts and a network"
	}
	for _, program := range []string{"podman", "runc", "conmon", "catatonit", "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			return program + " is missing; install Debian's podman, runc, netavark, catatonit and iptables"
		}
	}
	if _, err := os.Stat("/usr/lib/podman/netavark"); err != nil {
		return "netavark is missing; install Debian's package of that name"
	}
	return ""
}

// runInside compiles what the images hold, while there is a network, and runs this program once more.
func runInside() (err error) {
	dir, err := os.MkdirTemp("", "postern-pod-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for binary, source := range map[string]string{"postern/postern": "../..", "legacy/legacy": "legacy"} {
		if err := compile(filepath.Join(dir, binary), source); err != nil {
			return err
		}
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	// catatonit is the first process, because Go reaps no orphans.
	inside := exec.Command("catatonit", append([]string{"--"}, os.Args...)...)
	inside.Stdout, inside.Stderr, inside.Env = os.Stdout, os.Stderr, append(os.Environ(), work+"="+dir)
	inside.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := inside.Run(); err != nil {
		return fmt.Errorf("in namespaces of their own: %w", err)
	}
	return nil
}

// compile builds static binaries, as the Dockerfile does.
func compile(binary, source string) error {
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, ".")
	build.Dir, build.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w: %s", source, err, out)
	}
	return nil
}

// moveIn hides what is the machine's: its mounts, processes, locks, and networks by name.
func moveIn() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for target, kind := range map[string]string{"/proc": "proc", "/run": "tmpfs"} {
		if err := syscall.Mount(kind, target, kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("open loopback: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
