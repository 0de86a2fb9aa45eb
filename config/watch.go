package config

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long the files must be left alone before they are looked at: whoever
	// writes one writes it in pieces, and often several at once.
	settle = 200 * time.Millisecond
	// maxSettle is how long a change waits when something never leaves the directory alone.
	maxSettle = 2 * time.Second
)

// Watch calls changed each time that the content of one of files, or that there is one,
// has changed and nothing more happened for 200 ms (2 s at most). It watches their
// directories, and those that symbolic links lead to: ConfigMaps swap a link, editors a
// file. It returns nil when ctx ends, an error when a directory cannot be watched.
//
// It runs in, and calls changed from, the caller's goroutine: what changes meanwhile is
// seen afterwards. What changed before Watch was called is not seen: load the
// configuration, call Watch with its Files, and call it anew when those are others.
func Watch(ctx context.Context, files []string, changed func()) error {
	w, err := newWatch(files)
	if err != nil {
		return err
	}
	return w.run(ctx, changed)
}

// run calls changed each time until ctx ends, and closes the watch.
func (w *watch) run(ctx context.Context, changed func()) error {
	defer w.notifier.Close()
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	var due <-chan time.Time
	var first time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-w.notifier.Events:
			if !ok {
				return errors.New("watch files: the notifier closed")
			}
			if !w.concerns(event) {
				continue
			}
		case _, ok := <-w.notifier.Errors: // such as too many events at once: look
			if !ok {
				return errors.New("watch files: the notifier closed")
			}
		case <-due:
			due, first = nil, time.Time{}
			w.follow()
			if now := w.look(); !maps.Equal(now, w.seen) {
				w.seen = now
				changed()
			}
			continue
		}
		if first.IsZero() {
			first = time.Now()
		}
		if timer != nil {
			timer.Stop()
		}
		timer = time.NewTimer(max(0, min(settle, maxSettle-time.Since(first))))
		due = timer.C
	}
}

// A watch is one run of Watch.
type watch struct {
	notifier *fsnotify.Watcher
	files    []string // absolute
	targets  []string // what they are, behind links
	seen     map[string]look
}

func newWatch(files []string) (*watch, error) {
	w := &watch{}
	for _, file := range files {
		path, err := filepath.Abs(file)
		if err != nil {
			return nil, fmt.Errorf("watch files: %w", err)
		}
		w.files = append(w.files, path)
	}
	notifier, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	w.notifier = notifier
	for _, path := range w.files {
		if err := notifier.Add(filepath.Dir(path)); err != nil {
			notifier.Close()
			return nil, fmt.Errorf("watch the directory of a file: %w", err)
		}
	}
	w.follow()
	w.seen = w.look()
	return w, nil
}

// follow watches the directories where the files are behind links, as they are now. One
// that cannot be watched is left: the link itself is watched, and it is what is swapped.
func (w *watch) follow() {
	w.targets = w.targets[:0]
	for _, path := range w.files {
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue
		}
		w.targets = append(w.targets, target)
		_ = w.notifier.Add(filepath.Dir(path)) // it may have been made anew
		_ = w.notifier.Add(filepath.Dir(target))
	}
}

// concerns reports whether the files may be others after event. Somebody's writing to
// another file in the directory, such as the store, does not concern them.
func (w *watch) concerns(event fsnotify.Event) bool {
	switch {
	case event.Op == fsnotify.Chmod:
		return false
	case event.Op == fsnotify.Write:
		return slices.Contains(w.files, event.Name) || slices.Contains(w.targets, event.Name)
	}
	return !strings.HasSuffix(event.Name, "-wal") && !strings.HasSuffix(event.Name, "-shm") && !strings.HasSuffix(event.Name, "-journal")
}

// A look is what is in a file; its zero value: nothing that can be read.
type look struct {
	there  bool
	digest [sha256.Size]byte
}

// look looks at all files.
func (w *watch) look() map[string]look {
	all := map[string]look{}
	for _, path := range w.files {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			all[path] = look{}
		case err != nil || !info.Mode().IsRegular(): // to read a pipe could take for ever
			all[path] = look{there: true}
		default:
			data, _, _ := read(path, maxFile)
			all[path] = look{true, sha256.Sum256(data)}
		}
	}
	return all
}
