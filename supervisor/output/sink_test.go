package output

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
)

// print writes a line and checks the promise of every Write.
func print(t *testing.T, s *Sink, line string) {
	t.Helper()
	if n, err := s.Write([]byte(line)); n != len(line) || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
}

func told(lost uint64) []byte { return fmt.Appendf(nil, "(%d lost)", lost) }

func TestSinkWritesLinesInOrder(t *testing.T) {
	rec := newRecorder()
	s := NewSink(rec, 1<<20, told)
	var want strings.Builder
	for i := range 5000 {
		line := fmt.Sprintf("line %d\n", i)
		print(t, s, line)
		want.WriteString(line)
	}
	print(t, s, "")
	print(t, s, "no end")
	if err := s.Flush(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	if rec.String() != want.String()+"no end\n" {
		t.Errorf("got %.300q", rec.String())
	}
	if err := s.Close(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	print(t, s, "after the end\n")
	if err := s.Flush(testkit.Patience); err != nil {
		t.Error(err)
	}
	if s.Lost() != 1 {
		t.Errorf("lost %d, want 1", s.Lost())
	}
}

func TestSinkDropsAndTells(t *testing.T) {
	rec := newGated()
	s := NewSink(rec, 30, told)
	print(t, s, "in the writer's hand\n")
	<-rec.entered
	for range 4 {
		print(t, s, "kept or not\n")
	}
	print(t, s, strings.Repeat("longer than the queue ", 10))
	if err := s.Flush(0); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Flush = %v", err)
	}
	close(rec.gate)
	if err := s.Flush(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	print(t, s, "room again, but not for a line of this length\n")
	if err := s.Flush(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	print(t, s, "room again\n")
	if err := s.Close(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	if want := "in the writer's hand\n"; !strings.HasPrefix(rec.String(), want) {
		t.Errorf("got %q", rec.String())
	}
	if want := "(5 lost)\n(1 lost)\nroom again\n"; s.Lost() != 6 || !strings.HasSuffix(rec.String(), want) {
		t.Errorf("lost %d, got %q", s.Lost(), rec.String())
	}
}

func TestSinkQueueIsBounded(t *testing.T) {
	rec := newGated()
	const limit = 10_000
	s := NewSink(rec, limit, told)
	print(t, s, "0123456789\n")
	<-rec.entered
	for range 10_000 {
		print(t, s, "0123456789\n")
	}
	s.mu.Lock()
	size, held := s.size, len(s.queue)
	s.mu.Unlock()
	if size > limit || size < limit-20 || held >= size {
		t.Errorf("%d bytes in the queue, %d in all, limit %d", held, size, limit)
	}
	close(rec.gate)
	if err := s.Close(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	if got := uint64(strings.Count(rec.String(), "9\n")) + s.Lost(); got != 10_001 {
		t.Errorf("%d lines written or lost", got)
	}
}

func TestSinkGoesOnAfterErrors(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EPIPE, syscall.ENOSPC, syscall.EBADF} {
		rec := newRecorder()
		s := NewSink(rec, 1<<20, told)
		rec.failWith(errno, 3)
		for range 3 {
			print(t, s, "lost line\n")
		}
		if err := s.Flush(testkit.Patience); err != nil {
			t.Fatal(err)
		}
		rec.failWith(nil, 0)
		print(t, s, "first again\n")
		_ = s.Close(testkit.Patience)
		if want := "los\nfirst again\n(3 lost)\n"; rec.String() != want || s.Lost() != 3 {
			t.Errorf("%v: got %q, %d lost; want %q", errno, rec.String(), s.Lost(), want)
		}
	}
}

// One line of a batch fails: the ones behind it get through.
func TestSinkLosesOnlyTheLineThatFailed(t *testing.T) {
	rec := newGated()
	s := NewSink(rec, 1<<20, told)
	calls := 0
	rec.fail = func(p []byte) (int, error) {
		if calls++; calls == 2 {
			return 0, syscall.EINVAL
		}
		return len(p), nil
	}
	print(t, s, "1\n")
	<-rec.entered
	print(t, s, "2\n")
	print(t, s, "3\n")
	close(rec.gate)
	_ = s.Close(testkit.Patience)
	if want := "1\n3\n(1 lost)\n"; rec.String() != want {
		t.Errorf("got %q, want %q", rec.String(), want)
	}
}

func TestSinkCloseOfABlockedWriterEnds(t *testing.T) {
	rec := newGated()
	s := NewSink(rec, 1<<20, nil)
	print(t, s, "stuck\n")
	<-rec.entered
	if err := s.Close(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Close = %v", err)
	}
	close(rec.gate)
	if err := s.Close(testkit.Patience); err != nil || rec.String() != "stuck\n" {
		t.Errorf("second Close = %v, got %q", err, rec.String())
	}
}

func TestSinkDefaultNoticeIsARecord(t *testing.T) {
	var record struct {
		Level, Message string
		Lost           int
		Time           time.Time
	}
	if err := json.Unmarshal(lostRecord(7), &record); err != nil {
		t.Fatal(err)
	}
	if record.Level != "warn" || record.Lost != 7 || record.Message == "" || time.Since(record.Time) > time.Minute {
		t.Errorf("got %+v", record)
	}
}

func TestSinkConcurrentWriters(t *testing.T) {
	rec := newRecorder()
	s := NewSink(rec, 16<<20, told)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 500 {
				fmt.Fprintf(s, "writer %d line %d\n", w, i)
				if i%100 == 0 {
					_ = s.Flush(testkit.Patience)
				}
			}
		})
	}
	wg.Wait()
	if err := s.Close(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	if err := inOrder(rec.String(), "writer %d line %d", 8, 500); err != nil {
		t.Error(err)
	}
}

// inOrder checks that the lines of all writers are there: whole, once, and each writer's in order.
func inOrder(text, format string, writers, lines int) error {
	next := make([]int, writers)
	for line := range strings.Lines(text) {
		var w, i int
		if _, err := fmt.Sscanf(line, format+"\n", &w, &i); err != nil {
			return fmt.Errorf("line %q: %w", line, err)
		}
		if next[w] != i {
			return fmt.Errorf("line %q, but %d is next", line, next[w])
		}
		next[w]++
	}
	for w, n := range next {
		if n != lines {
			return fmt.Errorf("writer %d: %d lines of %d", w, n, lines)
		}
	}
	return nil
}

// The control for this is os.File itself: a write to descriptor 2 would have ended the child with SIGPIPE.
func TestSinkSurvivesABrokenStderr(t *testing.T) {
	r, w := pipe(t, 0)
	outR, outW := pipe(t, 0)
	_ = r.Close()
	_, wait := startRole(t, "broken-log", outW, w)
	_ = outW.Close()
	got, _ := io.ReadAll(outR)
	if state := wait(); !state.Success() || string(got) != "alive, 3 lost, close: <nil>\n" {
		t.Errorf("%v, printed %q", state, got)
	}
}

func TestSinkAllocatesNothing(t *testing.T) {
	s := NewSink(io.Discard, 1<<20, nil)
	line := []byte(strings.Repeat("x", 99) + "\n")
	if n := testing.AllocsPerRun(1000, func() { _, _ = s.Write(line) }); n != 0 {
		t.Errorf("%v allocations a line", n)
	}
	_ = s.Close(testkit.Patience)
}

func BenchmarkSinkWrite(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	s := NewSink(null, 1<<20, nil)
	line := []byte(strings.Repeat("x", 199) + "\n")
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, _ = s.Write(line)
		if i%256 == 0 { // a burst that the queue has room for: writing is measured, not dropping
			_ = s.Flush(testkit.Patience)
		}
	}
	_ = s.Close(testkit.Patience)
	if s.Lost() > 0 {
		b.Errorf("lost %d of %d", s.Lost(), b.N)
	}
}
