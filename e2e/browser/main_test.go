// Package browser looks at /status as people do: in a real browser, at the page
// of the real binary.
//
// It is a module of its own, so that what drives the browser is no business of
// who builds poolinit:
//
//	cd e2e/browser && go test -timeout 10m ./...
//
// POOLINIT_BINARY names a binary that is there already, SCREENSHOTS a directory
// for pictures. POOLINIT_E2E=strict makes a failure of what is skipped otherwise.
package browser

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// patience is how long a test waits for what must happen. It is only ever waited
// out by a test that fails.
const patience = 30 * time.Second

// The variables that begin with POOLINIT_ are not for the pools under test, which
// would warn that they are no settings.
var (
	strict = os.Getenv("POOLINIT_E2E") == "strict"
	binary = os.Getenv("POOLINIT_BINARY")
)

func TestMain(m *testing.M) {
	os.Unsetenv("POOLINIT_E2E")
	os.Unsetenv("POOLINIT_BINARY")
	if os.Getenv("BROWSER_WORKER") != "" {
		os.Exit(work())
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	defer atEnd.run()
	return m.Run()
}

// atEnd is what to tidy up after the last test.
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

// work is what the test binary does as a worker: it says the STATUS that
// BROWSER_STATUS wants, answers each line, and ends when it is asked to, but not
// with BROWSER_DEAF.
func work() int {
	stop := make(chan os.Signal, 1) // a second one says nothing new
	signal.Notify(stop, syscall.SIGTERM)
	if err := notify("STATUS=" + os.Getenv("BROWSER_STATUS") + "\nREADY=1"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv("POOLINIT_FD") != "" {
		channel := os.NewFile(3, "channel")
		for lines := bufio.NewScanner(channel); lines.Scan(); {
			if _, err := fmt.Fprintln(channel, "got", lines.Text()); err != nil {
				return 1
			}
		}
	}
	for range stop {
		if os.Getenv("BROWSER_DEAF") == "" {
			break
		}
	}
	return 0
}

func notify(text string) error {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(text))
	return err
}

// poolinit returns the path of the binary, which is built unless POOLINIT_BINARY
// names one.
func poolinit(t testing.TB) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var built = sync.OnceValues(func() (string, error) {
	if binary != "" {
		return filepath.Abs(binary)
	}
	dir, err := os.MkdirTemp("", "poolinit-browser")
	if err != nil {
		return "", err
	}
	atEnd.add(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "poolinit")
	build := exec.Command("go", "build", "-C", filepath.Join("..", ".."), "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// chromium starts the browser, once. Every test has a window of its own in it.
func chromium(t testing.TB) context.Context {
	t.Helper()
	ctx, err := started()
	switch {
	case errors.Is(err, exec.ErrNotFound) && !strict:
		t.Skip("chromium is not installed")
	case err != nil:
		t.Fatalf("chromium: %v", err)
	}
	return ctx
}

var started = sync.OnceValues(func() (context.Context, error) {
	path, err := installed("chromium", "chromium-browser", "google-chrome")
	if err != nil {
		return nil, err
	}
	ctx, cancel := chromedp.NewContext(context.Background(), chromedp.WithAllocatorOptions(chromedp.ExecPath(path)))
	atEnd.add(func() {
		end, giveUp := context.WithTimeout(ctx, patience)
		defer giveUp()
		_ = chromedp.Cancel(end) // it has nothing to lose
		cancel()
	})
	return ctx, chromedp.Do(ctx)
})

// installed returns the path of the first program that is installed.
func installed(names ...string) (path string, err error) {
	for _, name := range names {
		if path, err = exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", err
}

// eventually waits until cond says yes. If that takes longer than patience the
// test fails, with what there was instead.
func eventually(t testing.TB, what string, cond func() (got any, ok bool)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got, ok := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v; instead there was: %v", what, patience, got)
		}
		time.Sleep(20 * time.Millisecond) // between two looks at what has no event to wait for
	}
}

// A buffer collects what a program writes; it may be read while it grows.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
