package pod

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// podman is an engine of this test's own: storage, state and networks are in its directory.
type podman struct {
	dir     string
	options []string
}

func newPodman(t *testing.T, dir string) *podman {
	t.Helper()
	p := &podman{dir: dir, options: []string{
		"--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs",
	}}
	// By default podman raises the limits, which not even root may do everywhere.
	var files, processes syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	must(t, syscall.Getrlimit(6, &processes)) // RLIMIT_NPROC, which package syscall does not name
	config := filepath.Join(dir, "containers.conf")
	text := fmt.Sprintf(`[containers]
default_ulimits = ["nofile=%[1]d:%[1]d", "nproc=%[2]d:%[2]d"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
tmp_dir = %[3]q
[network]
network_backend = "netavark"
network_config_dir = %[4]q
`, files.Max, processes.Max, filepath.Join(dir, "libpod"), filepath.Join(dir, "networks"))
	must(t, os.WriteFile(config, []byte(text), 0o600))
	t.Setenv("CONTAINERS_CONF", config)
	return p
}

// try runs one podman command.
func (p *podman) try(arguments ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	command := exec.CommandContext(ctx, "podman", append(p.options, arguments...)...)
	command.Dir, command.Stdout, command.Stderr = p.dir, &out, &errs
	command.WaitDelay = time.Second
	err = command.Run()
	return strings.TrimSpace(out.String()), strings.TrimSpace(errs.String()), err
}

// run is try where it has to succeed.
func (p *podman) run(t *testing.T, arguments ...string) string {
	t.Helper()
	out, errs, err := p.try(arguments...)
	if err != nil {
		t.Fatalf("podman %s: %v\n%s\n%s", strings.Join(arguments, " "), err, out, errs)
	}
	return out
}

// build makes the two images. Nothing is pulled: each holds a binary that is compiled already.
func (p *podman) build(t *testing.T) {
	t.Helper()
	root, err := filepath.Abs("../..")
	must(t, err)
	context := filepath.Join(p.dir, "postern")
	must(t, os.Mkdir(filepath.Join(context, "data"), 0o755))
	for from, to := range map[string]string{
		filepath.Join(root, "image.yaml"): "image.yaml", "/etc/ssl/certs/ca-certificates.crt": "ca-certificates.crt",
	} {
		text, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(context, to), text, 0o644))
	}
	build := []string{"build", "--quiet", "--isolation", "chroot", "--format", "docker"}
	p.run(t, append(build, "--build-arg", "BINARY=prebuilt", "--tag", "localhost/postern",
		"--file", filepath.Join(root, "Dockerfile"), context)...)
	legacy := filepath.Join(p.dir, "legacy")
	must(t, os.WriteFile(filepath.Join(legacy, "Dockerfile"), []byte("FROM scratch\nCOPY legacy /legacy\nENTRYPOINT [\"/legacy\"]\n"), 0o644))
	p.run(t, append(build, "--tag", "localhost/legacy", legacy)...)
}

// play starts the pod and returns its address.
func (p *podman) play(t *testing.T, m *manifest) (address string) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			out, errs, _ := p.try("pod", "logs", "--names", m.name)
			t.Logf("the pod said:\n%s\n%s", out, errs)
		}
		id, _, _ := p.try("pod", "inspect", "--format", "{{.ID}}", m.name)
		if _, errs, err := p.try("pod", "rm", "--force", "--time", "0", m.name); err != nil {
			t.Errorf("podman pod rm: %v %s", err, errs)
		}
		// The only thing that no namespace takes away: podman 4.3 forgets it where there are cgroups of both versions.
		left, _ := filepath.Glob("/sys/fs/cgroup/*/libpod_parent/" + id)
		for _, directory := range left {
			if id != "" {
				_ = os.Remove(directory)
			}
		}
	})
	// The network podman has no names, and needs no server for them.
	p.run(t, "play", "kube", "--build=false", "--network", "podman", m.write(t))
	infra := p.run(t, "pod", "inspect", "--format", "{{.InfraContainerID}}", m.name)
	return p.run(t, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", infra)
}
