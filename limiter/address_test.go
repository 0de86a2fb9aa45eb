package limiter

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"postern/secret"
)

func TestAddressOfRedis(t *testing.T) {
	f := func(address string, want place) {
		t.Helper()
		if p, err := parseAddress(secret.Secret(address), nil); err != nil || p != want {
			t.Errorf("%s: %+v, %v", address, p, err)
		}
	}
	f("redis://h", place{host: "h", port: "6379"})
	f("redis://h/", place{host: "h", port: "6379"})
	f("redis://h:6380/15", place{host: "h", port: "6380", database: 15})
	f("redis://:6380", place{host: "localhost", port: "6380"})
	f("redis:///2", place{host: "localhost", port: "6379", database: 2})
	f("redis://10.0.0.7:1", place{host: "10.0.0.7", port: "1"})
	f("redis://[2001:db8::1]:6380/1", place{host: "2001:db8::1", port: "6380", database: 1})
	f("redis://[::1]", place{host: "::1", port: "6379"})
	f("redis://:p@h", place{host: "h", port: "6379", password: "p"})
	f("redis://user@h", place{host: "h", port: "6379", user: "user"})
	f("redis://user:p%23%2F%3F%40:x@h", place{host: "h", port: "6379", user: "user", password: "p#/?@:x"})
	f("rediss://user:p@h/1", place{host: "h", port: "6379", user: "user", password: "p", database: 1, secure: true})
	for _, bad := range []string{
		"redis", "redis:h", "http://user:hunter2@h", "unix:///hunter2", "redis://user:hunter2@h:port/%zz", "redis://user:hunter2@h:65536",
		"redis://h/x", "redis://h/-1", "redis://h/1/2", "redis://h/99999999999", "redis://h:1?db=1", "redis://user:1#hunter2@h", "redis://user:1?hunter2@h",
		"redis://user:1/hunter2@h",
	} {
		_, err := Open(t.Context(), Options{Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler), Redis: secret.Secret(bad)})
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "redis://user:password@host") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestKeysAreElsewhere(t *testing.T) {
	here := place{host: "here", port: "1", user: "u", password: "p", secure: true}
	f := func(answer error, wantHost, wantPort string) {
		t.Helper()
		want := here
		want.host, want.port = wantHost, wantPort
		if to, ok := here.moved(fmt.Errorf("ask: %w", answer)); ok != (wantPort != "") || ok && to != want {
			t.Errorf("%v: %+v, %v", answer, to, ok)
		}
	}
	f(redis.Error("MOVED 3999 127.0.0.1:6381"), "127.0.0.1", "6381")
	f(redis.Error("MOVED 3999 node-2.redis.internal:6381"), "node-2.redis.internal", "6381")
	f(redis.Error("MOVED 3999 2001:db8::1:6381"), "2001:db8::1", "6381")
	f(redis.Error("MOVED 3999 :6381"), "here", "6381")
	f(redis.Error("MOVED 3999 ?:6381"), "", "")
	f(redis.Error("MOVED 3999"), "", "")
	f(redis.Error("MOVED 3999 6381"), "", "")
	f(redis.Error("ASK 3999 127.0.0.1:6381"), "", "")
	f(redis.Error("ERR unknown command"), "", "")
	f(errors.New("MOVED 3999 127.0.0.1:6381"), "", "")
}

// played is a Redis whose part play takes, for each connection.
func played(t *testing.T, play func(in *bufio.Reader, out io.Writer)) place {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			play(bufio.NewReader(c), c)
			c.Close()
		}
	}()
	p, err := parseAddress(secret.Secret("redis://user:hunter2@"+listener.Addr().String()), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What Redis answers to a login may repeat it.
func TestLoginIsNotShown(t *testing.T) {
	p := played(t, func(in *bufio.Reader, out io.Writer) {
		_, _ = in.ReadString('*')
		fmt.Fprint(out, "-ERR unknown command `AUTH`, with args beginning with: `user`, `hunter2`, \r\n")
		_, _ = in.ReadString(0)
	})
	_, err := connect(t.Context(), p)
	if err == nil || !strings.Contains(err.Error(), "log in: ERR") || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

// Answers that come one by one, each in time, take no longer than one that does not come.
func TestRoundEnds(t *testing.T) {
	p := played(t, func(in *bufio.Reader, out io.Writer) {
		fmt.Fprint(out, "+OK\r\n")
		for {
			if _, err := fmt.Fprint(out, ":1\r\n"); err != nil {
				return
			}
			time.Sleep(late / 5)
		}
	})
	f := func(name string, ctx context.Context, want error) {
		t.Helper()
		c, err := connect(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		defer c.end()
		commands := slices.Repeat([]command{say("HGETALL", present)}, 50)
		began := time.Now()
		if _, err := c.ask(ctx, commands); !errors.Is(err, want) || time.Since(began) > late*3/2 {
			t.Errorf("%s: %v after %s", name, err, time.Since(began))
		}
	}
	ctx, cancel := patient(t.Context())
	defer cancel()
	f("patience ends", ctx, errLate)
	ctx, stop := context.WithCancel(t.Context())
	time.AfterFunc(late/4, stop)
	f("the limiter is closed", ctx, context.Canceled)
}

// A length that is announced takes no memory, and an array in an array no stack.
func TestAnswersAreBounded(t *testing.T) {
	f := func(name, answer string, want error) {
		t.Helper()
		p := played(t, func(in *bufio.Reader, out io.Writer) {
			for i := range len(answer) { // wherever a read ends
				if _, err := io.WriteString(out, answer[i:i+1]); err != nil || i > 100 {
					_, _ = io.WriteString(out, answer[i+1:])
					break
				}
			}
			_, _ = in.ReadString(0)
		})
		p.user, p.password = "", ""
		c, err := connect(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		defer c.end()
		ctx, cancel := patient(t.Context())
		defer cancel()
		answers, err := c.ask(ctx, []command{say("HGETALL", present), say("EXPIRE", present, keepDay)})
		if !errors.Is(err, want) || err == nil && answers[1] != int64(1) {
			t.Errorf("%s: %v, %v", name, answers, err)
		}
	}
	text := func(n int) string { return fmt.Sprintf("$%d\r\n%s\r\n", n, strings.Repeat("$", n)) }
	f("a hash", "*4\r\n"+text(1)+text(0)+text(2)+text(maxText)+":1\r\n", nil)
	f("nothing", "*-1\r\n:1\r\n", nil)
	f("no text", "*2\r\n$-1\r\n$-1\r\n:1\r\n", nil)
	f("a long text", "$65537\r\n", errBounds)
	f("a text as long as memory", "*1\r\n$4000000000000\r\n", errBounds)
	f("a text longer than numbers", "$99999999999999999999\r\n", errBounds)
	f("a long array", "*1048577\r\n", errBounds)
	f("an array longer than memory", "*9000000000000000000\r\n", errBounds)
	f("an array in an array", "*1\r\n*1\r\n", errBounds)
	f("arrays, each the last of one", strings.Repeat("*2\r\n:1\r\n", 2), errBounds)
	f("a line without an end", "-"+strings.Repeat("a", maxLine), errBounds)
	f("a line where a text's end belongs", "$0\r\n"+strings.Repeat("a", 2*maxLine), errBounds)
}
