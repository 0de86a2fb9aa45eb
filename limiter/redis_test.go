//go:build unix

package limiter

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// redisServer is a private Redis, for one test, that keeps nothing on disk. It listens on a
// port of its own of 127.0.0.1, the same after a restart.
type redisServer struct {
	t    *testing.T
	port int
	dir  string
	args []string
	cmd  *exec.Cmd // nil: not running
}

// patience is the most that anything but a measurement may take.
const patience = 20 * time.Second

// startRedis starts a Redis with further arguments. Without the program the test is
// skipped, and fails in CI.
func startRedis(t *testing.T, args ...string) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is missing, and this is CI")
		}
		t.Skip("SKIPPED: redis-server is missing; install it to run this test")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &redisServer{t: t, port: l.Addr().(*net.TCPAddr).Port, dir: t.TempDir(), args: args}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.kill)
	r.start()
	return r
}

func (r *redisServer) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

func (r *redisServer) url() string { return "redis://" + r.address() }

// start starts it, empty, and waits until it answers.
func (r *redisServer) start() {
	r.t.Helper()
	log := filepath.Join(r.dir, "log")
	r.cmd = exec.Command("redis-server", append([]string{"--port", strconv.Itoa(r.port), "--bind", "127.0.0.1", "--save", "", "--dir", r.dir, "--logfile", log}, r.args...)...)
	r.cmd.SysProcAttr = attributes()
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		text, _ := os.ReadFile(log)
		if c, err := net.Dial("tcp", r.address()); err == nil {
			_ = c.SetDeadline(time.Now().Add(time.Second))
			fmt.Fprint(c, "PING\r\n")
			answer, _ := bufio.NewReader(c).ReadString('\n')
			c.Close()
			if answer != "" || len(r.args) > 0 { // TLS does not say PONG to this
				return
			}
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("redis does not answer:\n%s", text)
		}
	}
}

func (r *redisServer) kill() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
	r.cmd = nil
}

// freeze makes it hang without ending a connection; thaw ends that.
func (r *redisServer) freeze() { r.signal(syscall.SIGSTOP) }
func (r *redisServer) thaw()   { r.signal(syscall.SIGCONT) }

func (r *redisServer) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// fields is what a key of Redis holds.
func (r *redisServer) fields(key string) map[string]string {
	r.t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.address()}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	all, err := c.Do(context.Background(), c.B().Hgetall().Key(key).Build()).AsStrMap()
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}
