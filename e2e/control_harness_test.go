package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A statusDocument is what the tests read of a document. (The package that has it
// whole would have the test binary, which plays workers, catch signals.)
type statusDocument struct {
	PID              int
	Ready            bool
	Reason, Stopping string
	Workers          []struct {
		ID, PID  int
		State    string
		Failures int     `json:"failures_in_a_row"`
		Next     float64 `json:"next_start_seconds"`
		LastExit *struct {
			Why, Signal string
			Code        int
			Peak        int `json:"peak_memory_bytes"`
		} `json:"last_exit"`
	}
	Queue   *struct{}
	Sources []struct{ Handled int }
}

// inside runs `poolinit` with arguments in the PID namespace of a program, whose
// PID 1 that is.
func (p *process) inside(args ...string) sent {
	p.t.Helper()
	return client(p.t, nil, p.insideArgs(nil, args...)...)
}

// insideAs is inside as another user.
func (p *process) insideAs(uid int, args ...string) sent {
	p.t.Helper()
	id := strconv.Itoa(uid)
	return client(p.t, nil, p.insideArgs([]string{"-S", id, "-G", id}, args...)...)
}

func (p *process) insideArgs(options []string, args ...string) []string {
	p.t.Helper()
	need(p.t, "nsenter")
	p.self() // its /proc is mounted then
	words := append([]string{"nsenter", "-t", strconv.Itoa(p.pid), "-p", "-m"}, options...)
	return append(append(words, "--", poolinit(p.t)), args...)
}

// document is what `poolinit status --json` prints.
func (p *process) document(args ...string) *statusDocument {
	p.t.Helper()
	return parseDocument(p.t, p.inside(append([]string{"status", "--json"}, args...)...).stdout)
}

func parseDocument(t testing.TB, text string) *statusDocument {
	t.Helper()
	d := new(statusDocument)
	if err := json.Unmarshal([]byte(text), d); err != nil {
		t.Fatalf("%v: %q", err, text)
	}
	return d
}

// awaitDocument waits until the document is as wanted, and returns it.
func (p *process) awaitDocument(what string, wanted func(*statusDocument) bool) (d *statusDocument) {
	p.t.Helper()
	eventually(p.t, what, func() (any, bool) {
		got := p.inside("status", "--json")
		if got.code != 0 {
			return got, false
		}
		d = parseDocument(p.t, got.stdout)
		return got, wanted(d)
	})
	return d
}

// awaitPool waits until the pool is ready.
func (p *process) awaitPool() *statusDocument {
	p.t.Helper()
	return p.awaitDocument("the pool is ready", func(d *statusDocument) bool { return d.Ready })
}

// says checks what a command ended with, and words of its output.
func (s sent) says(t testing.TB, code int, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(s.stdout+s.stderr, w) {
			t.Errorf("no %q in\nstdout %q\nstderr %q", w, s.stdout, s.stderr)
		}
	}
	if s.code != code {
		t.Errorf("exit code %d, want %d\nstdout %q\nstderr %q", s.code, code, s.stdout, s.stderr)
	}
}

// asks is docker exec, with its exit code.
func (c *container) asks(command ...string) sent {
	c.t.Helper()
	return client(c.t, nil, append([]string{"docker", "exec", c.name}, command...)...)
}

// awaitAnswer waits until docker exec ends with 0.
func (c *container) awaitAnswer(command ...string) (got sent) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("%q succeeds", command), func() (any, bool) {
		got = c.asks(command...)
		return got, got.code == 0
	})
	return got
}

// bareName is an image with /poolinit and no other file, and its own health check.
var bareName = fmt.Sprintf("poolinit-e2e:%d-bare", os.Getpid())

var importBare = sync.OnceValue(func() error {
	binary, err := built()
	if err != nil {
		return err
	}
	var rootfs bytes.Buffer
	w := newImageWriter(&rootfs)
	w.file("/poolinit", binary)
	if err := w.close(); err != nil {
		return err
	}
	cmd := exec.Command("docker", "import", "--change", `HEALTHCHECK CMD ["/poolinit", "health", "--ready"]`, "-", bareName)
	cmd.Stdin = &rootfs
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("docker import: %w\n%s", err, out)
	}
	atTheEnd(func() { _ = exec.Command("docker", "rmi", "-f", bareName).Run() })
	return nil
})

// bareRun starts a container of nothing but poolinit. Its workers are poolinit,
// too: for want of another program they watch the pool.
func bareRun(t testing.TB, options []string, flags ...string) *container {
	t.Helper()
	needDocker(t)
	poolinit(t)
	if err := importBare(); err != nil {
		t.Fatal(err)
	}
	command := append(append([]string{"/poolinit"}, flags...), "--", "/poolinit", "status", "--watch", "--json")
	return dockerRunImage(t, bareName, options, command...)
}

// row is the line of a table that begins with a word.
func row(table, word string) []string {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == word {
			return f
		}
	}
	return nil
}

// column is a field of a worker's line, by its head.
func column(t testing.TB, table, worker, head string) string {
	t.Helper()
	heads, cells := row(table, "WORKER"), row(table, worker)
	i := slices.Index(heads, head)
	if i < 0 || i >= len(cells) {
		t.Fatalf("no %s of worker %s in\n%s", head, worker, table)
	}
	return cells[i]
}
