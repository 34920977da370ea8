// Package e2e runs the real binary as a real PID 1 and looks at it from
// outside: in a PID namespace, on a terminal, in docker.
//
// The harness is in harness*_test.go. A test says what to run in a program{},
// start()s it, and waits for conditions with eventually(). The test binary
// plays the workers itself: see children.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/strict"
)

// Patience is how long a test waits for what must happen. It is only ever
// waited out by a test that fails.
const Patience = 30 * time.Second

// children are the programs that the test binary plays when E2E_CHILD names
// one: they get the arguments and return the exit code. Files add theirs with
//
//	var _ = child("name", func(args []string) int { ... })
var children = map[string]func(args []string) int{}

func Child(name string, main func(args []string) int) string {
	if children[name] != nil {
		panic("two children called " + name)
	}
	children[name] = main
	return name
}

func TestMain(m *testing.M) {
	os.Unsetenv("POOLINIT_E2E") // strict has read it; poolinit would warn that it is no setting
	if name := os.Getenv("E2E_CHILD"); name != "" {
		main := children[name]
		if main == nil {
			fmt.Fprintf(os.Stderr, "no child is called %q\n", name)
			os.Exit(99)
		}
		os.Exit(main(os.Args[1:]))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	defer atEnd.run()
	return m.Run()
}

// AtEnd has something tidied up after the last test.
func AtEnd(do func()) { atEnd.add(do) }

var atEnd cleanups

type cleanups struct {
	mu sync.Mutex
	do []func()
}

func (c *cleanups) add(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.do = append(c.do, f)
}

func (c *cleanups) run() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.do {
		f()
	}
}

// BinaryPath builds the program as it is released, once. E2E_BINARY names one that
// is there already.
var BinaryPath = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("E2E_BINARY"); path != "" {
		return filepath.Abs(path)
	}
	dir, err := os.MkdirTemp("", "poolinit-e2e")
	if err != nil {
		return "", err
	}
	atEnd.add(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // other users run it, too
		return "", err
	}
	path := filepath.Join(dir, "poolinit")
	build := exec.Command("../tools/build.sh", path)
	build.Env = append(os.Environ(), "VERSION=v0.0.0-e2e")
	if out, err := build.CombinedOutput(); err != nil {
		return path, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// Binary returns the path of the binary.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := BinaryPath()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Named returns the path of a symbolic link to the binary with that name.
func Named(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(Binary(t), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Self returns the path of the test binary, for a child.
func Self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Need skips the test unless the tools are installed.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			strict.Skip(t, "%s is not installed", tool)
		}
	}
}

// Eventually waits until cond says yes. If that takes longer than patience the
// test fails, with what there was instead.
func Eventually(t testing.TB, what string, cond func() (got any, ok bool)) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		got, ok := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v; instead there was: %v", what, Patience, got)
		}
		time.Sleep(wait) // between two looks at what has no event to wait for
	}
}

// A Buffer collects what a program writes; it may be read while it grows.
type Buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Size is how much has been written.
func (b *Buffer) Size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Len()
}

// Expect waits until the text is there.
func (b *Buffer) Expect(t testing.TB, text string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("output %q", text), func() (any, bool) {
		got := b.String()
		return fmt.Sprintf("%q", got), strings.Contains(got, text)
	})
}

// ExpectTimes waits until the text is there so often, and not more often.
func (b *Buffer) ExpectTimes(t testing.TB, text string, times int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("output %q, %d times", text, times), func() (any, bool) {
		got := b.String()
		return fmt.Sprintf("%q", got), strings.Count(got, text) == times
	})
}

// Lines returns the whole lines so far.
func (b *Buffer) Lines() []string {
	got := b.String()
	end := strings.LastIndexByte(got, '\n')
	if end < 0 {
		return nil
	}
	return strings.Split(got[:end], "\n")
}
