package main

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"postern/registry"
)

// failure is an error with what the operator can do next.
type failure struct {
	cause error
	hint  string
}

func (f *failure) Error() string { return f.cause.Error() }
func (f *failure) Unwrap() error { return f.cause }

// ended is an end with an exit code of its own: another program's, or a shell's for why it
// did not run. cause is nil where that program has said all.
type ended struct {
	cause error
	code  int
}

func (e *ended) Error() string {
	if e.cause == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.cause.Error()
}

func (e *ended) Unwrap() error { return e.cause }

// next is what to do about the causes that a command can expect.
type next struct {
	notFound string
	other    string // about a cause of no kind, such as a master key that does not fit
}

// cannot says which task failed and why, with the hint that goes with the cause. An
// error that brings its own hint keeps it.
func cannot(task string, err error, n next) error {
	hint := ""
	if own, ok := errors.AsType[*failure](err); ok {
		hint = own.hint
	} else {
		switch {
		case errors.Is(err, registry.ErrNotFound):
			hint = n.notFound
		case errors.Is(err, registry.ErrConflict), errors.Is(err, registry.ErrInvalid):
			// These say what to do themselves.
		case errors.Is(err, registry.ErrUnavailable):
			hint = "another process may hold the store, or its disk may be full or read-only; see to that and try again"
		case errors.Is(err, registry.ErrDamaged):
			hint = "keep it, and restore a backup in its place: postern store restore --help"
		case errors.Is(err, registry.ErrNotStore):
			hint = "is that the path, or the database, of a store?"
		default:
			hint = n.other
		}
	}
	return &failure{cause: fmt.Errorf("cannot %s: %w", task, err), hint: hint}
}

// refuse is a failure that this program decides on itself.
func refuse(hint, format string, args ...any) error {
	return &failure{cause: fmt.Errorf(format, args...), hint: hint}
}

// report tells err to the operator and returns the exit code that goes with it.
func (e *environment) report(err error) int {
	if err == nil {
		return exitDone
	}
	code, hint := exitFailed, ""
	if own, ok := errors.AsType[*failure](err); ok {
		hint = own.hint
	}
	if end, ok := errors.AsType[*ended](err); ok {
		if code = end.code; end.cause == nil {
			return code
		}
	}
	if misuse, ok := errors.AsType[*kong.ParseError](err); ok {
		code, hint = exitMisused, "postern --help"
		if misuse.Context != nil {
			if node := misuse.Context.Selected(); node != nil {
				hint = node.FullPath() + " --help"
			}
		}
		hint = "run: " + hint
	}
	fmt.Fprintln(e.Stderr, "postern: "+printableLines(err.Error()))
	if hint != "" {
		fmt.Fprintln(e.Stderr, "hint: "+printableLines(hint))
	}
	return code
}

// note tells the operator something beside the answer.
func (e *environment) note(format string, args ...any) {
	fmt.Fprintln(e.Stderr, "postern: "+printableLines(fmt.Sprintf(format, args...)))
}

// printable returns text with everything escaped that a terminal would act on instead
// of showing: control characters, ANSI sequences, invisible and direction marks, and
// bytes that are not UTF-8.
func printable(text string) string {
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

// printableLines is printable for text whose line ends are ours: several faults, one a line.
func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}
