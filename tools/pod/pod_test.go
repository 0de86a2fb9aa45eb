package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rendered is the example chart with postern as an ordinary container, which podman can start; charts/test holds the
// file equal to what helm renders.
const rendered = "../../charts/test/testdata/golden/sidecar-example-plain.yaml"

const clientSecret = "pst_KMmP-dHx25n2IXpbEIGNcXKbEEkI-UrninGWJLxREJc_WwEm"

// running is the pod, seen from outside.
type running struct {
	*podman
	*manifest
	address string
	client  *http.Client
	token   string
}

// TestPod tells the life of a pod in the order in which it happens.
func TestPod(t *testing.T) {
	dir := os.Getenv(work)
	p := newPodman(t, dir)
	p.build(t)
	volumes := filepath.Join(dir, "volumes")
	must(t, os.Mkdir(volumes, 0o755))
	m := readManifest(t, rendered, volumes, map[string]map[string]string{"sidecar-example-clients": {"radio": clientSecret + "\n"}})
	r := &running{podman: p, manifest: m, address: p.play(t, m), client: &http.Client{Timeout: 20 * time.Second}}
	t.Logf("the pod of %s is at %s; beside it the chart has %s", m.name, r.address, m.kinds())
	for _, chapter := range []struct {
		name string
		test func(*testing.T)
	}{
		{"it gets ready", r.getsReady}, {"it may do nothing but its work", r.isConfined},
		{"a client gets a token", r.issues}, {"a request is forwarded", r.forwards},
		{"the API is behind postern alone", r.isHidden}, {"a changed ConfigMap acts", r.reloads}, {"SIGTERM loses nothing", r.drains},
	} {
		if !t.Run(chapter.name, chapter.test) {
			return // what follows rests on it
		}
	}
}

// get asks the pod.
func (r *running) get(t *testing.T, port int, path string, fields ...string) (status int, content string) {
	t.Helper()
	status, content, err := r.ask(port, path, fields...)
	must(t, err)
	return status, content
}

func (r *running) ask(port int, path string, fields ...string) (status int, content string, err error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+net.JoinHostPort(r.address, strconv.Itoa(port))+path, nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i < len(fields); i += 2 {
		request.Header.Set(fields[i], fields[i+1])
	}
	answer, err := r.client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body), err
}

// eventually waits until what holds.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// getsReady runs what holds the start of the containers after postern's, and asks each probe as the kubelet does.
func (r *running) getsReady(t *testing.T) {
	if len(r.ready) == 0 || len(r.probes) < 4 {
		t.Fatalf("the chart renders postStart %q and the probes %v", r.ready, r.probes)
	}
	r.run(t, append([]string{"exec", r.name + "-postern"}, r.ready...)...)
	for _, p := range r.probes {
		eventually(t, 20*time.Second, fmt.Sprintf("%s of %s: 200 from %d%s", p.kind, p.container, p.port, p.path), func() bool {
			status, _, err := r.ask(p.port, p.path)
			return err == nil && status == http.StatusOK
		})
	}
}

// isConfined reads what the kernel says of both processes.
func (r *running) isConfined(t *testing.T) {
	for container, user := range map[string]string{"postern": "65532", "api": "65534"} {
		pid := r.run(t, "inspect", "--format", "{{.State.Pid}}", r.name+"-"+container)
		status, err := os.ReadFile("/proc/" + pid + "/status")
		must(t, err)
		none := "0000000000000000"
		for name, want := range map[string]string{
			"Uid": strings.TrimSpace(strings.Repeat(user+"\t", 4)), "NoNewPrivs": "1", "Seccomp": "2",
			"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		} {
			if !strings.Contains(string(status), "\n"+name+":\t"+want+"\n") {
				t.Errorf("%s: %s is not %q in:\n%s", container, name, want, status)
			}
		}
		mounts, err := os.ReadFile("/proc/" + pid + "/mountinfo")
		must(t, err)
		if !regexp.MustCompile(`(?m)^\S+ \S+ \S+ \S+ / ro,`).Match(mounts) { // proc_pid_mountinfo(5)
			t.Errorf("%s can write to its root:\n%s", container, mounts)
		}
	}
	_, errs, err := r.podman.try("exec", r.name+"-postern", "/postern", "organization", "create", "--store", "sqlite:/here.db", "--name", "Acme")
	if err == nil || !strings.Contains(errs, "read-only") {
		t.Errorf("a store in the root: %v %s", err, errs)
	}
}

// issues uses the client that the chart declares.
func (r *running) issues(t *testing.T) {
	answer, err := r.client.PostForm("http://"+net.JoinHostPort(r.address, "8080")+"/oauth/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"radio"}, "client_secret": {clientSecret},
	})
	must(t, err)
	defer answer.Body.Close()
	var issued struct {
		Token string `json:"access_token"`
	}
	content, err := io.ReadAll(answer.Body)
	must(t, err)
	if json.Unmarshal(content, &issued) != nil || issued.Token == "" {
		t.Fatalf("%d %s", answer.StatusCode, content)
	}
	r.token = issued.Token
}

// forwards looks at what the API received.
func (r *running) forwards(t *testing.T) {
	status, head := r.get(t, 8080, "/catalogs", "Authorization", "Bearer "+r.token, "X-Client-Id", "forged")
	if status != http.StatusOK || !strings.HasPrefix(head, "GET /catalogs HTTP/1.1\r\n") {
		t.Fatalf("%d %s", status, head)
	}
	for _, line := range []string{`X-Client-Id: radio`, `X-Client-Environment: production`, `X-Organization-Id: [0-9a-f-]{36}`, `X-Token-Id: [0-9a-f-]{36}`} {
		if !regexp.MustCompile(`\r\n` + line + `\r\n`).MatchString(head) {
			t.Errorf("no %s in:\n%s", line, head)
		}
	}
	if strings.Contains(head, "forged") || strings.Contains(head, r.token) {
		t.Errorf("the API got what it must not get:\n%s", head)
	}
	status, content := r.get(t, 8080, "/catalogs")
	if status != http.StatusUnauthorized || !strings.Contains(content, `"missing_token"`) {
		t.Errorf("without a token: %d %s", status, content)
	}
}

// isHidden: the API listens in the pod, and nobody outside connects to it.
func (r *running) isHidden(t *testing.T) {
	if status, _ := r.get(t, 8080, "/healthz"); status != http.StatusOK {
		t.Errorf("through postern: %d", status)
	}
	c, err := net.DialTimeout("tcp", net.JoinHostPort(r.address, "3000"), 5*time.Second)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("to the API's own port: %v", err)
	}
}

// reloaded is when postern last applied its configuration.
func (r *running) reloaded(t *testing.T) float64 {
	t.Helper()
	_, metrics := r.get(t, 9090, "/metrics")
	m := regexp.MustCompile(`(?m)^postern_config_reloaded_timestamp_seconds (\S+)$`).FindStringSubmatch(metrics)
	if m == nil {
		t.Fatalf("no time of a reload in:\n%s", metrics)
	}
	at, err := strconv.ParseFloat(m[1], 64)
	must(t, err)
	return at
}

// reloads changes the ConfigMap: one more route, and the same process.
func (r *running) reloads(t *testing.T) {
	process := func() string {
		return r.run(t, "inspect", "--format", "{{.State.Pid}} {{.RestartCount}}", r.name+"-postern")
	}
	before, pid := r.reloaded(t), process()
	if status, _ := r.get(t, 8080, "/fresh"); status != http.StatusUnauthorized {
		t.Fatalf("before: %d", status)
	}
	r.swap(t, "postern-config", r.configWith(t, object{
		"name": "fresh", "path": "/fresh", "access": "public", "upstream": []string{"http://127.0.0.1:3000"},
	}), 0o440)
	eventually(t, 20*time.Second, "the new route answers", func() bool {
		status, _ := r.get(t, 8080, "/fresh")
		return status == http.StatusOK
	})
	eventually(t, 10*time.Second, "the metric tells of it", func() bool { return r.reloaded(t) > before })
	if now := process(); now != pid {
		t.Errorf("process and restarts were %s and are %s", pid, now)
	}
}

// drains ends postern while a request is in flight. As with the chart's preStop, the API ends after it.
func (r *running) drains(t *testing.T) {
	request, err := http.NewRequest(http.MethodGet, "http://"+net.JoinHostPort(r.address, "8080")+"/slow", nil)
	must(t, err)
	request.Header.Set("Authorization", "Bearer "+r.token)
	slow, err := r.client.Do(request) // returns with the head: the request is in flight
	must(t, err)
	defer slow.Body.Close()
	grace := strconv.Itoa(at[int](r.spec, "terminationGracePeriodSeconds"))
	stopped := make(chan error, 1)
	go func() {
		_, errs, err := r.podman.try("stop", "--time", grace, r.name+"-postern")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, errs)
		}
		stopped <- err
	}()
	eventually(t, 5*time.Second, "not ready", func() bool {
		status, content := r.get(t, 9090, "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(content, "draining")
	})
	// The load balancer has not noticed yet.
	if status, _ := r.get(t, 8080, "/catalogs", "Authorization", "Bearer "+r.token); status != http.StatusOK {
		t.Errorf("a request after SIGTERM: %d", status)
	}
	if content, err := io.ReadAll(slow.Body); err != nil || string(content) != "all of it" || slow.StatusCode != http.StatusOK {
		t.Errorf("the request in flight: %d %q %v", slow.StatusCode, content, err)
	}
	must(t, <-stopped)
	if code := r.run(t, "inspect", "--format", "{{.State.ExitCode}}", r.name+"-postern"); code != "0" {
		t.Errorf("exit code %s", code)
	}
	if _, _, err := r.ask(8080, "/healthz"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the end: %v", err)
	}
}
