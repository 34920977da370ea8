package output

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
)

// Both streams of many workers into one file, under two names: every line is whole.
func TestRelayNeverMixesLines(t *testing.T) {
	reader, w := pipe(t, 0)
	dup := duplicate(t, w)
	r := NewRelay(Prefix, dup, w)
	const workers, lines = 8, 300
	var wg sync.WaitGroup
	for i := range workers {
		c := start(t, r, i)
		wg.Go(func() { printAll(c, i, lines) })
	}
	text := make(chan string)
	go func() { // ends at the end of the pipe: w and its duplicate are closed below
		b, _ := io.ReadAll(reader)
		text <- string(b)
	}()
	wg.Wait()
	if err := r.Close(testkit.Patience); err != nil {
		t.Error(err)
	}
	_ = w.Close()
	_ = dup.Close()
	split := map[string]string{}
	for line := range strings.Lines(<-text) {
		stream := line[strings.LastIndexByte(line, ' ')+1:]
		split[stream] += strings.Replace(line, " "+stream, "\n", 1)
	}
	for _, stream := range []string{"out\n", "err\n"} {
		if err := inOrder(split[stream], "[worker %d] line %d", workers, lines); err != nil {
			t.Errorf("%q: %v", stream, err)
		}
	}
}

// printAll prints in small, odd portions on both streams at once.
func printAll(c child, worker, lines int) {
	var wg sync.WaitGroup
	for _, s := range []struct {
		f    *os.File
		name string
	}{{c.out, "out"}, {c.err, "err"}} {
		wg.Go(func() {
			for i := range lines {
				line := fmt.Sprintf("line %d %s\n", i, s.name)
				cut := (i + worker) % len(line)
				_, _ = io.WriteString(s.f, line[:cut])
				_, _ = io.WriteString(s.f, line[cut:])
			}
		})
	}
	wg.Wait()
	c.exit()
}

func TestRelayBlockedDestinationBlocksNobodyElse(t *testing.T) {
	rec := newGated()
	errs := newRecorder()
	r := NewRelay(Prefix, rec, errs)
	c := start(t, r, 1)
	_, _ = io.WriteString(c.out, "stuck\n")
	<-rec.entered
	var other child
	within(t, "Open or CloseChild", func() { other = start(t, r, 2) })
	_, _ = io.WriteString(other.err, "the other stream flows\n")
	errs.wait(t, "stderr", func(s string) bool { return s == "[worker 2] the other stream flows\n" })
	c.exit()
	other.exit()
	if err := r.Close(0); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Close = %v", err)
	}
	if _, err := r.Open(3); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Open after Close = %v", err)
	}
	close(rec.gate)
	testkit.Eventually(t, "the pumps end", func() (any, bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.pumps), len(r.pumps) == 0
	})
}

func TestRelayFailingDestinationCostsLinesOnly(t *testing.T) {
	rec := newRecorder()
	r := NewRelay(Prefix, rec, rec)
	rec.failWith(syscall.ENOSPC, len("[worker 1] who"))
	c := start(t, r, 1)
	const lines = 100_000 // far more than the pipe holds
	within(t, "a worker that prints to a failing destination", func() {
		_, _ = io.WriteString(c.out, strings.Repeat("whole\n", lines))
	})
	testkit.Eventually(t, "all lines are counted", func() (any, bool) { return r.Lost(), r.Lost() == lines })
	rec.failWith(nil, 0)
	_, _ = io.WriteString(c.out, "again\n")
	c.exit()
	if err := r.Close(testkit.Patience); err != nil {
		t.Error(err)
	}
	if want := "[worker 1] who\n[worker 1] again\n"; rec.String() != want {
		t.Errorf("got %q, want %q", rec.String(), want)
	}
}

// A process that outlives its worker keeps the pipe: its lines come, and only Close ends its pump.
func TestRelayCloseEndsWhatOutlivesAWorker(t *testing.T) {
	rec := newRecorder()
	r := NewRelay(Prefix, rec, rec)
	c := start(t, r, 1)
	_ = c.err.Close()
	_, _ = io.WriteString(c.out, "still here\nand mid-line")
	rec.wait(t, "the line", func(s string) bool { return s == "[worker 1] still here\n" })
	testkit.Eventually(t, "the beginning of a line is read", func() (any, bool) { return pending(t, c.out), pending(t, c.out) == 0 })
	before := time.Now()
	err := r.Close(20 * time.Millisecond)
	if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.HasPrefix(err.Error(), "1 output stream") {
		t.Errorf("Close = %v", err)
	}
	if d := time.Since(before); d < 20*time.Millisecond || d > testkit.Patience {
		t.Errorf("Close took %s", d)
	}
	testkit.Eventually(t, "the pumps end", func() (any, bool) { // most often before Close returns, which does not wait long for them
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.pumps), len(r.pumps) == 0
	})
	if want := "[worker 1] still here\n[worker 1] and mid-line\n"; rec.String() != want {
		t.Errorf("got %q, want %q", rec.String(), want)
	}
	if _, err := c.out.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write to an ended pump = %v", err)
	}
}

// pending returns how many bytes wait to be read.
func pending(t *testing.T, f *os.File) int {
	t.Helper()
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
