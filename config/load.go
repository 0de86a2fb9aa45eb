package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Source is where a configuration comes from. Flags beat Environ beats File beats
// the defaults.
type Source struct {
	File     string            // path of the YAML file; "": none
	Environ  []string          // as os.Environ: gives POSTERN_… variables and what ${NAME} in the file stands for
	Flags    map[string]string // dotted key to value: {"front.listen": "127.0.0.1:0"}
	Upstream string            // the value of --upstream: one route, at /, to there; "": none
	Now      time.Time         // certificates that have expired by then are warned of; zero: none is

	// Ignore reports whether a fault of the setting key ("": of no one setting) is none to
	// whoever asks for a few other settings. What it ignores may have any value. nil: all count.
	Ignore func(key string) bool
}

// Load reads all of s and validates it as a whole. The error joins every Fault that
// it found (errors.Join), in the order of join; Config is its zero value then. It
// blocks on nothing but files, and reads of those no more than 1 MiB.
func Load(s Source) (Config, error) {
	l := newLoader(s)
	l.config.file = s.File
	whole := l.file()
	l.environment()
	l.flags()
	l.upstream()
	if whole { // else every setting of the file would seem to be missing
		l.resolve()
		l.validate()
	}
	if s.Ignore != nil {
		l.faults = slices.DeleteFunc(l.faults, func(f placed) bool { return s.Ignore(f.Key) })
	}
	if err := join(l.faults, l.unnoted); err != nil {
		return Config{}, err
	}
	return l.config, nil
}

// A loader is one run of Load.
type loader struct {
	source     Source
	env        map[string]string
	config     Config
	into       reflect.Value     // what decode fills: config, or a Domain
	marks      int               // how many values the file may hold
	split      string            // what to do about more
	origins    map[string]origin // by key; of sections and places in lists too
	failed     map[string]bool   // keys whose value is wrong
	faults     []placed
	unnoted    int // faults beyond maxNoted
	known      map[reflect.Type][]setting
	identities map[string]bool // what identity has found
	readable   bool            // the file can be read by everybody on this machine
	beside     bool            // files that it names are looked for from where it is
}

func newLoader(s Source) *loader {
	l := &loader{
		source: s, config: Default(),
		marks: maxMarks, split: "split the routes over several instances",
		env: map[string]string{}, origins: map[string]origin{}, failed: map[string]bool{}, known: map[reflect.Type][]setting{},
	}
	l.into = reflect.ValueOf(&l.config).Elem()
	for _, entry := range s.Environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			l.env[name] = value
		}
	}
	return l
}

// fault notes that something is wrong with the setting key, at the place it came from.
func (l *loader) fault(key, problem, fix string) {
	l.failed[key] = true
	l.faultAt(l.origin(key), key, problem, fix)
}

// faultAt notes a fault that stands somewhere else than its setting's value, or that
// leaves the value as it is.
func (l *loader) faultAt(o origin, key, problem, fix string) {
	if o.where == upstreamFlag {
		key = "" // whoever gave a flag alone wrote no routes[0].upstream[0]
	}
	if len(l.faults) >= maxNoted {
		l.unnoted++
		return
	}
	l.faults = append(l.faults, placed{Fault{o.where, o.line, key, problem, fix}, o.layer})
}

// warn notes what is allowed and yet worth a warning.
func (l *loader) warn(key, problem, fix string) {
	o := l.origin(key)
	l.config.warnings = append(l.config.warnings, Fault{o.where, o.line, key, problem, fix}.Error())
}

// origin is where key got its value, or else where the section around it stands, or
// else the file as a whole.
func (l *loader) origin(key string) origin {
	for at := key; at != ""; at = parent(at) {
		if o, ok := l.origins[at]; ok {
			if at != key {
				o.shown = "" // that of another setting
			}
			return o
		}
	}
	return origin{where: l.source.File}
}

// parent is the key around key: routes[0].upstream[1], routes[0].upstream, routes[0], routes.
func parent(key string) string { return key[:max(strings.LastIndexAny(key, ".["), 0)] }

// ok reports whether nothing is wrong yet with the values of all keys, so that what is
// checked about them is not about a default that nobody chose, and said once.
func (l *loader) ok(keys ...string) bool {
	for _, key := range keys {
		for at := key; at != ""; at = parent(at) {
			if l.failed[at] {
				return false
			}
		}
	}
	return true
}

// set takes text, which came from o, as the value of a scalar setting.
func (l *loader) set(key string, s setting, into reflect.Value, text string, o origin) {
	if s.hidden() {
		o.shown = unshown
	}
	l.origins[key] = o
	if s.typ == secretType && text == "" && (o.layer != fromFile || !o.literal) {
		// Somebody meant to give a secret, and what should have held it was empty.
		l.fault(key, "is set, but empty", "give it a value, or remove the setting")
		return
	}
	if w := s.set(into, text); w != (wrong{}) {
		l.fault(key, o.shown+" "+w.problem, w.fix)
	}
}

const (
	maxFile       = 1 << 20
	maxSecretFile = 4 << 10
)

// file reads the configuration file, if there is one, and reports whether the rest can
// be judged as a whole.
func (l *loader) file() (whole bool) {
	if l.source.File == "" {
		return true
	}
	data, mode, err := read(l.source.File, maxFile)
	if err != nil {
		l.fault("", err.Error(), "")
		return false
	}
	l.readable = open(mode)
	return l.decode(data)
}

// read returns the content of a file of at most most bytes, and its mode. Its errors
// do not name the path: that may be a secret in the wrong setting.
func read(path string, most int64) ([]byte, fs.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, cannotRead(err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, 0, cannotRead(err)
	case info.IsDir():
		return nil, 0, errors.New("cannot be read: is a directory")
	case info.Size() > most:
		return nil, 0, fmt.Errorf("is larger than %s", Size(most))
	}
	// A pipe or a device has no size: what it gives is bounded all the same.
	data, err := readAll(f, most)
	return data, info.Mode(), err
}

// readAll is read for what is open already.
func readAll(r io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	switch {
	case err != nil:
		return nil, cannotRead(err)
	case int64(len(data)) > most:
		return nil, fmt.Errorf("is larger than %s", Size(most))
	}
	return data, nil
}

func cannotRead(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}
