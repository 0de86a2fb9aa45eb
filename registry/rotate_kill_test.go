package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"postern/secret"
)

// childStep is the step before which a child kills itself.
const childStep = "POSTERN_TEST_STEP"

// fatal is a connection of a process that kills itself before its nth step: each statement
// is one, so are the begin of a transaction and its commit, and what comes after that.
type fatal struct {
	driver.Conn
	left *int
}

func (f fatal) step() {
	if *f.left--; *f.left == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Minute)
	}
}

// Connect implements driver.Connector.
func (f fatal) Connect(context.Context) (driver.Conn, error) { return f, nil }

// Driver implements driver.Connector. Nothing asks for it.
func (f fatal) Driver() driver.Driver { return nil }

// Close leaves the connection open: it is not ours.
func (f fatal) Close() error { return nil }

// Prepare implements driver.Conn.
func (f fatal) Prepare(query string) (driver.Stmt, error) {
	f.step()
	return f.Conn.Prepare(query)
}

// Begin implements driver.Conn.
func (f fatal) Begin() (driver.Tx, error) {
	f.step()
	tx, err := f.Conn.Begin() //lint:ignore SA1019 every driver has it; what replaces it is optional
	return fatalTx{tx, f}, err
}

type fatalTx struct {
	driver.Tx
	fatal fatal
}

// Commit implements driver.Tx.
func (t fatalTx) Commit() error {
	t.fatal.step()
	err := t.Tx.Commit()
	t.fatal.step()
	return err
}

// killedAt does one thing with r and kills the process before the step that the environment
// names. It prints how many steps there were when there are fewer.
func killedAt(ctx context.Context, r *Registry, do func() error) error {
	left, err := strconv.Atoi(os.Getenv(childStep))
	if err != nil {
		return err
	}
	steps := left
	conn, err := r.engine.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(driverConn any) error {
		c, ok := driverConn.(driver.Conn)
		if !ok {
			return errors.New("the database driver has no connection")
		}
		usual := r.engine.write.DB
		defer func() { r.engine.write.DB = usual }()
		r.engine.write.DB = sql.OpenDB(fatal{c, &left})
		r.engine.write.DB.SetMaxOpenConns(1)
		if err := do(); err != nil {
			return err
		}
		fmt.Println("steps", steps-left)
		return nil
	})
}

// childKey is a key as a child process makes it.
func childKey() Key {
	raw := make([]byte, 138)
	_, _ = rand.Read(raw)
	return Key{ID: hex.EncodeToString(raw[:8]), Algorithm: "ES256", Private: secret.Secret(raw)}
}

// dueAtOnce is a rotation that is due whenever somebody looks.
var dueAtOnce = Rotation{Every: 2 * time.Millisecond, Publish: time.Millisecond, Keep: time.Hour}

// childRotates makes the next key by schedule, or rewraps the data key, in a child process.
func childRotates(ctx context.Context, r *Registry, job string) error {
	return killedAt(ctx, r, func() error {
		if job == "rewrap-step" {
			_, _, err := r.Rewrap(ctx, operator, anotherKey)
			return err
		}
		_, rotated, err := r.RotateDueKey(ctx, operator, dueAtOnce, func() (Key, error) { return childKey(), nil })
		if err == nil && !rotated {
			err = errors.New("no key was due")
		}
		return err
	})
}

// eachStep runs a job in one child process after the other on the store in path, each killed
// one step later than the one before, until one is not. before and after see each step.
func eachStep(t *testing.T, job, path string, before func(), after func(step int, killed bool)) {
	t.Helper()
	for step := 1; ; step++ {
		if step > 50 {
			t.Fatal("it never ends")
		}
		before()
		t.Setenv(childStep, strconv.Itoa(step))
		cmd, lines := startChild(t, job, path)
		var said []string
		for lines.Scan() {
			said = append(said, lines.Text())
		}
		_ = cmd.Wait()
		status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		killed := ok && status.Signaled()
		if !killed && (cmd.ProcessState.ExitCode() != 0 || len(said) != 1) {
			t.Fatalf("step %d: %s: %q", step, cmd.ProcessState, said)
		}
		after(step, killed)
		if !killed {
			t.Logf("%s", said)
			if step < 8 {
				t.Errorf("killed at %d steps: the test proves little", step-1)
			}
			return
		}
	}
}

// TestRow166KillAtEachStepOfARotation kills the process that rotates before each of its
// steps: the store holds the old state as a whole, or the new one.
func TestRow166KillAtEachStepOfARotation(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, path := context.Background(), file(t)
		r := open(t, path)
		if _, err := r.RotateKey(ctx, operator, childKey(), 0, time.Hour); err != nil {
			t.Fatal(err)
		}
		newest := must(r.Keys(ctx))(t)[0]
		all := 1
		before := func() { time.Sleep(5 * time.Millisecond) } // it is due
		eachStep(t, "rotate-step", path, before, func(step int, killed bool) {
			keys := must(r.Keys(ctx))(t)
			for _, k := range keys {
				if len(k.Private.Reveal()) != 138 {
					t.Errorf("step %d: key %s is not whole", step, k.ID)
				}
			}
			switch {
			case len(keys) == all && killed: // as before
				if keys[0] != newest || newest.VerifiesUntil != 0 {
					t.Errorf("step %d: the key was %+v, is %+v", step, newest, keys[0])
				}
			case len(keys) == all+1:
				if keys[0].VerifiesUntil != 0 || keys[1].ID != newest.ID || keys[1].VerifiesUntil != keys[0].SignsFrom.later(dueAtOnce.Keep) {
					t.Errorf("step %d: after %+v there is %+v", step, keys[1], keys[0])
				}
				all, newest = all+1, keys[0]
			default:
				t.Fatalf("step %d: %d keys, there were %d", step, len(keys), all)
			}
			if events := must(r.Events(ctx, 0))(t); len(events) != all || events[0].ID != newest.ID {
				t.Errorf("step %d: %d events, the last of %s; %d keys, the last is %s", step, len(events), events[0].ID, all, newest.ID)
			}
		})
		if all != 3 { // one by the child that was killed after its commit, one by that which was not
			t.Errorf("%d keys, want 3", all)
		}
	})
}

// A process that is killed while it changes the master key leaves the old one or the new.
func TestKillAtEachStepOfARewrap(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, path := context.Background(), file(t)
		old := secret.Secret(masterKey)
		with := func(key secret.Secret) func(*Options) { return func(o *Options) { o.MasterKey = key } }
		r := open(t, path, with(old))
		k := newKey(t, "a", "ES256")
		if _, err := r.RotateKey(ctx, operator, k, 0, time.Hour); err != nil {
			t.Fatal(err)
		}
		private, rewrapped := column(t, r, `SELECT private FROM signing_key`), false
		opens := func(key secret.Secret) bool {
			id := column(t, r, `SELECT id FROM data_key`)
			plain, err := openDataKey(id, wrappedByMaster, column(t, r, `SELECT material FROM data_key`), key)
			if err != nil {
				return false
			}
			text, err := unseal(must(newAEAD(plain))(t), private, k.ID)
			return err == nil && string(text) == string(k.Private)
		}
		eachStep(t, "rewrap-step", path, func() {
			if rewrapped { // back, for the next one
				if _, _, err := open(t, path, with(anotherKey)).Rewrap(ctx, operator, old); err != nil {
					t.Fatal(err)
				}
			}
		}, func(step int, killed bool) {
			rewrapped = opens(anotherKey)
			if opens(old) == rewrapped {
				t.Errorf("step %d: opened by the new master key: %t, and the same by the old one", step, rewrapped)
			}
			if !killed && !rewrapped {
				t.Errorf("step %d: nothing changed", step)
			}
		})
	})
}
