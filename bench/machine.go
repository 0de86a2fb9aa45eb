package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// checkMachine says which programs are missing, all at once, by the name of their Debian package.
func (b *bench) checkMachine(rows []*row) error {
	packages := map[string]string{"nginx": "nginx-light", "wrk": "wrk", "taskset": "util-linux"}
	if slices.ContainsFunc(rows, func(r *row) bool { return strings.HasPrefix(r.Name, "haproxy") }) {
		packages["haproxy"] = "haproxy"
	}
	var missing []string
	for program, name := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, fmt.Sprintf("%s (Debian package %s)", program, name))
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("missing programs: %s", strings.Join(missing, ", "))
	}
	if runtime.NumCPU() < 2 {
		return errors.New("this machine gives one core: the proxy and the load need one each")
	}
	return nil
}

// machine names what the figures were measured on.
func machine() string {
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	parts := []string{fmt.Sprintf("%s, %d cores", model, runtime.NumCPU()), runtime.Version()}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		parts = append(parts, "Linux "+strings.TrimSpace(string(text)))
	}
	for _, program := range []string{"nginx", "haproxy", "wrk"} { // wrk -v ends with 1: only the text counts
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		text, _ := exec.CommandContext(ctx, program, "-v").CombinedOutput()
		cancel()
		if line, _, _ := strings.Cut(string(text), "\n"); line != "" {
			line = strings.TrimPrefix(line, "nginx version: ")
			words := strings.Fields(strings.Replace(line, " version", "", 1))
			parts = append(parts, strings.Join(words[:min(2, len(words))], " "))
		}
	}
	return strings.Join(parts, "; ")
}

// fileSystem names the file system of dir, which decides whether what is written there is durable.
func fileSystem(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "unknown file system"
	}
	names := map[int64]string{0xEF53: "ext4", 0x01021994: "tmpfs", 0x794C7630: "overlay", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x2FC12FC1: "zfs"}
	if name := names[int64(s.Type)]; name != "" {
		return name
	}
	return fmt.Sprintf("file system %#x", s.Type)
}

// probeFsync is the median time of writing 4 KiB and waiting until the disk has them: what group commit has to beat.
func probeFsync(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "fsync-")
	if err != nil {
		return 0, fmt.Errorf("probe the disk: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []time.Duration
	for range 51 {
		start := time.Now()
		_, err := f.Write(make([]byte, 4096))
		if err = errors.Join(err, f.Sync()); err != nil {
			return 0, fmt.Errorf("probe the disk: %w", err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
