package harness

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
)

// A Document is what the tests read of the status document. (With the package that
// has all of it the test binary, which plays workers, would catch signals.)
type Document struct {
	PID              int
	Ready            bool
	Reason, Stopping string
	Wanted           int `json:"workers_wanted"`
	Workers          []struct {
		ID, PID    int
		Generation int
		State      string
		Failures   int     `json:"failures_in_a_row"`
		Next       float64 `json:"next_start_seconds"`
		LastExit   *struct {
			Why, Signal string
			Code        int
			Peak        int `json:"peak_memory_bytes"`
		} `json:"last_exit"`
	}
	Queue *struct {
		Messages int
		Paused   bool
	}
	Sources []struct{ Handled int }
}

// Inside runs `poolinit` with arguments in the PID namespace of a program, whose
// PID 1 that is.
func (p *Process) Inside(args ...string) Result {
	p.T.Helper()
	return RunClient(p.T, nil, p.InsideArgs(nil, args...)...)
}

// InsideAs is Inside as another user.
func (p *Process) InsideAs(uid int, args ...string) Result {
	p.T.Helper()
	id := strconv.Itoa(uid)
	return RunClient(p.T, nil, p.InsideArgs([]string{"-S", id, "-G", id}, args...)...)
}

// InsideArgs is the command line of Inside, with options of nsenter.
func (p *Process) InsideArgs(options []string, args ...string) []string {
	p.T.Helper()
	Need(p.T, "nsenter")
	p.Self() // its /proc is mounted then
	words := append([]string{"nsenter", "-t", strconv.Itoa(p.PID), "-p", "-m"}, options...)
	return append(append(words, "--", Binary(p.T)), args...)
}

// Document is what `poolinit status --json` prints.
func (p *Process) Document(args ...string) *Document {
	p.T.Helper()
	return ParseDocument(p.T, p.Inside(append([]string{"status", "--json"}, args...)...).Stdout)
}

// ParseDocument parses what `poolinit status --json` has printed.
func ParseDocument(t testing.TB, text string) *Document {
	t.Helper()
	d := new(Document)
	if err := json.Unmarshal([]byte(text), d); err != nil {
		t.Fatalf("%v: %q", err, text)
	}
	return d
}

// AwaitDocument waits until the document is as wanted, and returns it.
func (p *Process) AwaitDocument(what string, wanted func(*Document) bool) (d *Document) {
	p.T.Helper()
	testkit.Eventually(p.T, what, func() (any, bool) {
		got := p.Inside("status", "--json")
		if got.Code != 0 {
			return got, false
		}
		d = ParseDocument(p.T, got.Stdout)
		return got, wanted(d)
	})
	return d
}

// AwaitPool waits until the pool is ready.
func (p *Process) AwaitPool() *Document {
	p.T.Helper()
	return p.AwaitDocument("the pool is ready", func(d *Document) bool { return d.Ready })
}

// Says checks what a command ended with, and words of its output.
func (s Result) Says(t testing.TB, code int, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(s.Stdout+s.Stderr, w) {
			t.Errorf("no %q in\nstdout %q\nstderr %q", w, s.Stdout, s.Stderr)
		}
	}
	if s.Code != code {
		t.Errorf("exit code %d, want %d\nstdout %q\nstderr %q", s.Code, code, s.Stdout, s.Stderr)
	}
}
