package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/registry"
	"postern/registry/pgtest"
	"postern/secret"
)

// job is a program of an image that knows nothing of postern. It begins with a line of its
// process number, and does what its first argument says:
//
//	ask CODE URL…      GET each, with $TOKEN if there is one; print each status; exit with CODE
//	patient N CODE     exit with CODE at the Nth SIGTERM
//	serve ADDRESS      answer 200 over HTTP; /slow after /release; SIGTERM does not end it, /end does
func job() {
	number := func(i int) int {
		n, err := strconv.Atoi(os.Args[i])
		if err != nil {
			panic(err)
		}
		return n
	}
	terms := make(chan os.Signal, 10)
	signal.Notify(terms, syscall.SIGTERM)
	fmt.Printf("pid %d\n", os.Getpid())
	switch os.Args[1] {
	case "ask":
		for _, url := range os.Args[3:] {
			request, err := http.NewRequest("GET", url, http.NoBody)
			if err != nil {
				panic(err)
			}
			if token := os.Getenv("TOKEN"); token != "" {
				request.Header.Set("Authorization", "Bearer "+token)
			}
			answer, err := (&http.Client{Transport: &http.Transport{}}).Do(request)
			if err != nil {
				panic(err)
			}
			content, _ := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			fmt.Printf("%d %s\n", answer.StatusCode, content)
		}
		os.Exit(number(2))
	case "patient":
		for range number(2) {
			<-terms
			fmt.Println("terminated")
		}
		os.Exit(number(3))
	case "serve":
		jobServes(os.Args[2])
	}
}

func jobServes(address string) {
	released, end := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "for ", r.Header.Get("X-Client-Id")) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println("slow")
		<-released
		fmt.Fprint(w, "at last")
	})
	mux.HandleFunc("/release", func(http.ResponseWriter, *http.Request) { close(released) })
	mux.HandleFunc("/end", func(http.ResponseWriter, *http.Request) { close(end) })
	listener, err := net.Listen("tcp", address)
	if err != nil {
		panic(err)
	}
	fmt.Printf("listening %s\n", listener.Addr())
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	<-end
}

// says waits until the process has printed what the expression matches, and returns its
// groups.
func (p *process) says(expression string) []string {
	p.t.Helper()
	var found []string
	eventually(p.t, 2*time.Second, "it prints "+expression, func() bool {
		found = regexp.MustCompile(expression).FindStringSubmatch(p.out.String())
		return found != nil
	})
	return found
}

// running reports whether the process has not ended.
func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// unusedAddress is where nobody listens now.
func unusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// pod is an application that listens on loopback alone, and a postern beside it that waited
// for it to start.
type pod struct {
	t            *testing.T
	dir          string
	app, postern *process
	appURL       string
	token        string
	slow         chan reply // what a request got that the application does not answer before /release
}

func startPod(t *testing.T, drain string) *pod {
	t.Helper()
	address := unusedAddress(t)
	p := &pod{t: t, dir: t.TempDir(), appURL: "http://" + address, slow: make(chan reply, 1)}
	writeFile(t, p.dir+"/postern.yaml", "front: {listen: \"127.0.0.1:0\", "+drain+"}\nadmin: {listen: \"127.0.0.1:0\"}\n"+
		"store: sqlite:postern.db\nroutes: [{path: /, upstream: [\""+p.appURL+"\"]}]\n")
	p.postern = launch(t, p.dir, binary(t), "wait", "--tcp", address, "--", "postern", "serve", "--config", "postern.yaml")
	p.postern.store = "sqlite:" + p.dir + "/postern.db"
	eventually(t, 2*time.Second, "postern waits for the application", func() bool {
		return strings.Contains(p.postern.logs.String(), "postern: waiting: dial tcp "+address)
	})
	p.app = launch(t, p.dir, "job", "serve", address)
	p.postern.await(p.postern.ended)
	p.token = p.postern.goodToken(p.postern.client(""))
	go func() {
		r, err := send(t.Context(), "GET", p.postern.front+"/slow", "", "Authorization", "Bearer "+p.token)
		if err != nil {
			r.body = err.Error()
		}
		p.slow <- r
	}()
	p.app.says("slow")
	return p
}

// beside starts a program of the pod by postern's commands before it.
func (p *pod) beside(line ...string) *process {
	p.t.Helper()
	for i := range line {
		line[i] = strings.NewReplacer("{admin}", p.postern.admin, "{front}", p.postern.front).Replace(line[i])
	}
	return launch(p.t, p.dir, append([]string{"env", "TOKEN=" + p.token, binary(p.t)}, line...)...)
}

// draining waits until postern says that it is.
func (p *pod) draining() {
	p.t.Helper()
	eventually(p.t, 2*time.Second, "postern drains", func() bool {
		r, err := send(p.t.Context(), "GET", p.postern.admin+"/readyz", "")
		return err == nil && r.status == 503 && strings.Contains(r.body, "draining")
	})
}

// ends has the application answer what is in flight, and postern end well after it.
func (p *pod) ends() {
	p.t.Helper()
	if !p.postern.running() {
		p.t.Error("postern ended with a request in flight")
	}
	if _, err := send(p.t.Context(), "GET", p.appURL+"/release", ""); err != nil {
		p.t.Error(err)
	}
	if r := <-p.slow; r.status != 200 || r.body != "at last" {
		p.t.Errorf("the request in flight got %d %s", r.status, r.body)
	}
	if code := p.postern.ends(time.Second); code != exitDone {
		p.t.Errorf("postern ended with %d", code)
	}
}

// exits waits for the end of p and holds it to a code.
func (p *process) exits(code int) {
	p.t.Helper()
	if got := p.ends(2 * time.Second); got != code {
		p.t.Errorf("exit code %d, want %d", got, code)
	}
}

// TestWaitHoldsAnApplicationBack: its first line comes after postern was ready, whose store
// was away at first. Then it is the process that was waiting.
func TestWaitHoldsAnApplicationBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := "sqlite:" + dir + "/postern.db"
	r, err := registry.Open(t.Context(), registry.Options{DSN: secret.Secret(store)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	release := lockStore(t, store)
	defer release()
	admin := unusedAddress(t)
	app := launch(t, dir, binary(t), "wait", "--url", "http://"+admin, "--", "job", "ask", "4", "http://"+admin+"/readyz")
	waitsFor := func(reason string) {
		eventually(t, 6*time.Second, "it says what it waits for: "+reason, func() bool { return strings.Contains(app.logs.String(), reason) })
	}
	waitsFor("connection refused") // said at once; postern starts after it, or it could listen before the first look
	postern := launch(t, dir, binary(t), "serve", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin-listen", admin)
	postern.await(postern.ended)
	waitsFor("/readyz answered 503 Service Unavailable: starting: ") // said 5 s later
	if out := app.out.String(); out != "" || !app.running() {
		t.Fatalf("before postern was ready: %q", out)
	}
	release()
	found := app.says(`^pid (\d+)\n200 `)
	if found[1] != strconv.Itoa(app.command.Process.Pid) {
		t.Errorf("the application is process %s, and %d waited", found[1], app.command.Process.Pid)
	}
	app.exits(4)
}

// TestJobEndsPostern: a Job's program has its own exit code, and postern beside it finishes
// what is in flight and ends.
func TestJobEndsPostern(t *testing.T) {
	t.Parallel()
	p := startPod(t, "drain: 30s")
	job := p.beside("wait", "--url", "{admin}", "--", "postern", "quit", "--url", "{admin}", "--wait", "60s", "--", "job", "ask", "3", "{front}/")
	job.says(`\n200 for [0-9a-f-]{36}\n$`)
	p.draining()
	if !job.running() {
		t.Error("quit --wait returned before postern had drained")
	}
	p.ends()
	job.exits(3)
}

// TestJobKilled: nobody's end but the program's own ends the wrapper, and its end is told as
// a shell does.
func TestJobKilled(t *testing.T) {
	t.Parallel()
	p := startPod(t, "drain: 30s")
	job := p.beside("quit", "--url", "{admin}", "--", "job", "patient", "1", "0")
	pid, err := strconv.Atoi(job.says(`^pid (\d+)\n`)[1])
	if err != nil || pid == job.command.Process.Pid {
		t.Fatalf("process %d: %v", pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	job.exits(128 + int(syscall.SIGKILL))
	p.draining()
	p.ends()
}

// TestJobGetsSignals: SIGTERM to the wrapper is for the program, the second one too, and it
// decides when it ends.
func TestJobGetsSignals(t *testing.T) {
	t.Parallel()
	p := startPod(t, "drain: 30s")
	job := p.beside("wait", "--url", "{admin}", "--", "postern", "quit", "--url", "{admin}", "--", "job", "patient", "2", "5")
	job.says(`^pid \d+\n$`)
	job.signal(syscall.SIGTERM)
	job.says(`\nterminated\n$`)
	job.signal(syscall.SIGTERM)
	job.exits(5)
	if said := job.logs.String(); said != "" {
		t.Errorf("said %q", said)
	}
	p.draining()
	p.ends()
}

// TestPodDeleted: all get SIGTERM at once. The application goes on for its grace, so that
// postern serves what still comes, and then what is in flight.
func TestPodDeleted(t *testing.T) {
	t.Parallel()
	p := startPod(t, "drain_delay: 1s, drain: 30s")
	began := time.Now()
	for _, each := range []*process{p.app, p.postern} {
		each.signal(syscall.SIGTERM)
	}
	p.draining()
	r, err := send(t.Context(), "GET", p.postern.front+"/", "", "Authorization", "Bearer "+p.token)
	if time.Since(began) < time.Second && r.status != 200 {
		t.Errorf("in the delay: %d %s %v", r.status, r.body, err)
	}
	p.ends()
	if !p.app.running() {
		t.Error("the application did not outlive postern")
	}
	if _, err := send(t.Context(), "GET", p.appURL+"/end", ""); err != nil && p.app.running() {
		t.Logf("it ended before its answer: %v", err)
	}
	p.app.exits(0)
}

// TestStoreMigrateWaits: Jobs that start before their database wait for it, and any number
// at once is right.
func TestStoreMigrateWaits(t *testing.T) {
	t.Parallel() // it waits most of the time
	server := pgtest.Start(t)
	dsn, dir := server.Fresh(t), t.TempDir()
	writeFile(t, dir+"/postern.yaml", "store: "+dsn+"\nkeys: {master_key_file: not-for-a-migration}\n")
	server.Stop(t)
	var jobs []*process
	for range 2 {
		jobs = append(jobs, launch(t, dir, binary(t), "store", "migrate", "--config", "postern.yaml"))
	}
	for _, job := range jobs {
		eventually(t, 2*time.Second, "it waits", func() bool { return strings.Contains(job.logs.String(), "postern: waiting: open store: PostgreSQL: ") })
	}
	server.Restart(t)
	said := ""
	for _, job := range jobs {
		job.exits(exitDone)
		said += job.out.String()
	}
	if strings.Count(said, "made the tables") != 1 || strings.Count(said, "already") != 1 {
		t.Errorf("they said %s", said)
	}
}

// TestWaitToldToEnd: what waits ends at once when it is told to, and begins nothing.
func TestWaitToldToEnd(t *testing.T) {
	t.Parallel()
	p := launch(t, t.TempDir(), binary(t), "wait", "--url", "http://127.0.0.1:1", "--", "job", "patient", "1", "0")
	eventually(t, 2*time.Second, "it waits", func() bool { return strings.Contains(p.logs.String(), "postern: waiting: ") })
	p.signal(syscall.SIGTERM)
	p.exits(exitFailed)
	if said := p.logs.String(); !strings.Contains(said, "postern: cannot wait any longer: told to end; ") || p.out.String() != "" {
		t.Errorf("it said %q %q", said, p.out)
	}
}
