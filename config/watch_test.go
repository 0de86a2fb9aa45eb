package config

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Each change of a file is seen, once, whichever way it is made; nothing else is.
func TestWatch(t *testing.T) {
	running := goleak.IgnoreCurrent()
	t.Run("changes", watchChanges)
	goleak.VerifyNone(t, running)
}

func watchChanges(t *testing.T) {
	type place struct {
		dir, file string
		changed   chan struct{}
	}
	f := func(name string, prepare, change func(p place), want bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			t.Parallel()
			dir := t.TempDir()
			p := place{dir, filepath.Join(dir, "postern.yaml"), make(chan struct{}, 100)}
			prepare(p)
			ctx, cancel := context.WithCancel(t.Context())
			w, err := newWatch([]string{p.file})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error)
			go func() { done <- w.run(ctx, func() { p.changed <- struct{}{} }) }()
			change(p)
			wait := 10 * settle
			if !want {
				wait = 3 * settle
			}
			select {
			case <-p.changed:
				if !want {
					t.Error("called for nothing")
				}
			case <-time.After(wait):
				if want {
					t.Error("the change was not seen")
				}
			}
			select {
			case <-p.changed:
				t.Error("called twice")
			case <-time.After(2 * settle):
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(path, text string) { t.Helper(); must(os.WriteFile(path, []byte(text), 0o600)) }
	plain := func(p place) { put(p.file, "a: 1") }
	// A ConfigMap is directories ..1, ..2, a link ..data to one of them, and a link to ..data/NAME.
	version := func(p place, n int, text string) {
		dir := filepath.Join(p.dir, ".."+strconv.Itoa(n))
		must(os.Mkdir(dir, 0o700))
		put(filepath.Join(dir, "postern.yaml"), text)
		must(os.Symlink(".."+strconv.Itoa(n), filepath.Join(p.dir, "..data_tmp")))
		must(os.Rename(filepath.Join(p.dir, "..data_tmp"), filepath.Join(p.dir, "..data")))
		if n > 1 {
			must(os.RemoveAll(filepath.Join(p.dir, ".."+strconv.Itoa(n-1))))
		}
	}
	mounted := func(p place) {
		version(p, 1, "a: 1")
		must(os.Symlink("..data/postern.yaml", p.file))
	}
	link := func(p place) {
		must(os.Mkdir(filepath.Join(p.dir, "elsewhere"), 0o700))
		put(filepath.Join(p.dir, "elsewhere", "real.yaml"), "a: 1")
		must(os.Symlink("elsewhere/real.yaml", p.file))
	}

	f("written", plain, func(p place) { put(p.file, "a: 2") }, true)
	f("written in pieces", plain, func(p place) {
		for i := range 5 {
			put(p.file, "a: "+strings.Repeat("1", i+2))
			time.Sleep(settle / 4)
		}
	}, true)
	f("an editor's rename", plain, func(p place) {
		put(p.file+".swp", "a: 2")
		must(os.Rename(p.file+".swp", p.file))
	}, true)
	f("an editor's backup", plain, func(p place) {
		must(os.Rename(p.file, p.file+"~"))
		put(p.file, "a: 2")
	}, true)
	f("removed and made again, otherwise", plain, func(p place) {
		must(os.Remove(p.file))
		put(p.file, "a: 2")
	}, true)
	f("removed", plain, func(p place) { must(os.Remove(p.file)) }, true)
	f("made", func(place) {}, func(p place) { put(p.file, "a: 2") }, true)
	f("a ConfigMap", mounted, func(p place) { version(p, 2, "a: 2") }, true)
	f("a ConfigMap, and again", mounted, func(p place) {
		version(p, 2, "a: 2")
		<-p.changed
		version(p, 3, "a: 3")
	}, true)
	f("behind a link", link, func(p place) { put(filepath.Join(p.dir, "elsewhere", "real.yaml"), "a: 2") }, true)
	f("nothing", plain, func(place) {}, false)
	f("written with what it held", plain, func(p place) { put(p.file, "a: 1") }, false)
	f("a ConfigMap with what it held", mounted, func(p place) { version(p, 2, "a: 1") }, false)
	f("a neighbour", plain, func(p place) { put(filepath.Join(p.dir, "postern.db"), "x") }, false)
	f("its mode", plain, func(p place) { must(os.Chmod(p.file, 0o400)) }, false)
}

func TestWatchOfNowhere(t *testing.T) {
	err := Watch(t.Context(), []string{"/nowhere/postern.yaml"}, func() {})
	if err == nil || !strings.HasPrefix(err.Error(), "watch the directory of a file: ") {
		t.Errorf("said %v", err)
	}
}
