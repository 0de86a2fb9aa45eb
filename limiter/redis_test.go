//go:build unix

package limiter

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

// redisServer is a private Redis, for one test, that keeps nothing on disk. It listens on a
// port of its own of 127.0.0.1, the same after a restart.
type redisServer struct {
	t        *testing.T
	port     int
	dir      string
	args     []string
	tls      *tls.Config // nil: without
	password string      // of the test itself
	cmd      *exec.Cmd   // nil: not running
}

// patience is the most that anything but a measurement may take.
const patience = 20 * time.Second

// startRedis starts a Redis with further arguments. Without the program the test is
// skipped, and fails in CI.
func startRedis(t *testing.T, args ...string) *redisServer {
	t.Helper()
	r := newRedis(t, args...)
	r.start()
	return r
}

func newRedis(t *testing.T, args ...string) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is missing, and this is CI")
		}
		t.Skip("SKIPPED: redis-server is missing; install it to run this test")
	}
	r := &redisServer{t: t, port: freePort(t), dir: t.TempDir(), args: args}
	t.Cleanup(r.kill)
	return r
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().(*net.TCPAddr).Port
}

func (r *redisServer) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

func (r *redisServer) url() string { return "redis://" + r.address() }

// start starts it, empty, and waits until it answers.
func (r *redisServer) start() {
	r.t.Helper()
	log := filepath.Join(r.dir, "log")
	ports := []string{"--port", strconv.Itoa(r.port)}
	if r.tls != nil {
		ports = []string{"--port", "0", "--tls-port", strconv.Itoa(r.port)}
	}
	args := slices.Concat(ports, []string{"--bind", "127.0.0.1", "--save", "", "--dir", r.dir, "--logfile", log}, r.args)
	r.cmd = exec.Command("redis-server", args...)
	r.cmd.SysProcAttr = attributes()
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !r.answers(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log)
			r.t.Fatalf("redis does not answer:\n%s", text)
		}
	}
}

// answers reports whether it says anything, if only that one must log in.
func (r *redisServer) answers() bool {
	c, err := net.Dial("tcp", r.address())
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if r.tls != nil {
		c = tls.Client(c, r.tls)
	}
	fmt.Fprint(c, "PING\r\n")
	answer, _ := bufio.NewReader(c).ReadString('\n')
	return answer != ""
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

// do runs one command, for the test itself, and returns what a hash holds where it is asked for.
func (r *redisServer) do(words ...any) map[string]string {
	r.t.Helper()
	all, _ := redis.StringMap(r.run(words...), nil)
	return all
}

// run runs one command, for the test itself, and returns its answer.
func (r *redisServer) run(words ...any) any {
	r.t.Helper()
	answer, err := r.try(words...)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer
}

func (r *redisServer) try(words ...any) (any, error) {
	r.t.Helper()
	c, err := redis.Dial("tcp", r.address(), redis.DialUseTLS(r.tls != nil), redis.DialTLSConfig(r.tls), redis.DialPassword(r.password))
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	return c.Do(words[0].(string), words[1:]...)
}
