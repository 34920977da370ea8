package output

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

const (
	// pipeBuf is the largest write that a pipe takes in one piece: log lines stay
	// whole even among those of workers that write to the same pipe themselves.
	pipeBuf = 4096

	// keepQueue is how large a buffer may stay after a burst, in bytes.
	keepQueue = 64 << 10
)

// A Sink is an io.Writer for a program's own log that never blocks and never fails.
// Each Write is one line: it is queued, and one goroutine writes it. A line is lost
// if the queue has no room for it or its write fails. Lost lines are counted, and the
// next line that is written is followed by a notice of how many were lost.
//
// All methods may be called concurrently. An idle Sink uses no CPU.
type Sink struct {
	dest   *Dest
	limit  int
	notice func(lost uint64) []byte
	lost   atomic.Uint64 // since the start

	mu      sync.Mutex
	more    sync.Cond     // a line was queued or dropped, or the Sink closed
	queue   []byte        // whole lines
	size    int           // bytes queued and being written: never above limit
	dropped uint64        // lines refused since the writer last looked
	busy    bool          // the writer is writing lines
	empty   chan struct{} // made by Flush, closed when nothing is queued or being written
	closed  bool
	done    chan struct{} // closed when the writer has ended
}

// NewSink returns a Sink that writes to w, which the caller closes, and holds at most
// limit bytes of lines. notice makes the line that reports lost ones. If it is nil,
// that is a JSON record of level warn with the number in the field "lost".
//
// It starts a goroutine that ends after Close.
func NewSink(w io.Writer, limit int, notice func(lost uint64) []byte) *Sink {
	if notice == nil {
		notice = lostRecord
	}
	s := &Sink{dest: NewDest(w), limit: limit, notice: notice, done: make(chan struct{})}
	s.more.L = &s.mu
	go s.run() // ends when the Sink is closed and its queue written: Close waits for it
	return s
}

// lostRecord looks like a record of the logger that writes to the Sink.
func lostRecord(lost uint64) []byte {
	var line batch
	log := zerolog.New(&line)
	log.Log().Str(zerolog.LevelFieldName, zerolog.LevelWarnValue).
		RawJSON(zerolog.TimestampFieldName, time.Now().AppendFormat(nil, timeLayout)).
		Uint64("lost", lost).
		Msg("log lines lost: stderr was not read in time, or writing failed")
	return line
}

// Write queues p as one line, and adds an end of line if it has none; or it drops p.
// In both cases it returns len(p) and nil at once. The caller may reuse p.
func (s *Sink) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.more.Signal()
	if s.closed || s.size+len(p)+1 > s.limit {
		s.dropped++
		s.lost.Add(1)
		return len(p), nil
	}
	before := len(s.queue)
	s.queue = terminated(append(s.queue, p...))
	s.size += len(s.queue) - before
	return len(p), nil
}

// Lost returns the number of lines that were dropped or could not be written, since
// the start.
func (s *Sink) Lost() uint64 { return s.lost.Load() }

// Flush waits until nothing is queued or being written, at most timeout. Its error,
// which wraps os.ErrDeadlineExceeded, means that lines are still waiting. They are
// not lost.
func (s *Sink) Flush(timeout time.Duration) error {
	return waitLog(s.whenEmpty(), timeout)
}

// whenEmpty returns a channel that is closed when nothing is queued or being written.
func (s *Sink) whenEmpty() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.done
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	empty := s.empty
	s.signalIfEmpty()
	return empty
}

// Close refuses more lines and waits until the queued ones are written, at most
// timeout. Its error is that of Flush: the writer then hangs in a write to a place
// that takes nothing, and ends when the write returns. Close may be called again.
func (s *Sink) Close(timeout time.Duration) error {
	s.mu.Lock()
	s.closed = true
	s.more.Signal()
	s.mu.Unlock()
	return waitLog(s.done, timeout)
}

// run is the writer.
func (s *Sink) run() {
	defer s.end()
	var lines []byte
	var unreported, dropped uint64
	for more := true; more; {
		lines, dropped, more = s.take(lines)
		lost, ok := s.write(lines)
		unreported += dropped + lost
		if unreported > 0 && ok && s.report(unreported) {
			unreported = 0
		}
	}
}

// end lets Close return, and a Flush that began before it.
func (s *Sink) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.done)
	if s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

// take waits for lines and exchanges them for the buffer of the last ones. It returns
// without lines if some were dropped, because the last burst of a program that is
// then quiet would not be reported otherwise. more is false when the Sink is closed.
func (s *Sink) take(spare []byte) (lines []byte, dropped uint64, more bool) {
	if cap(spare) > keepQueue {
		spare = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	s.signalIfEmpty()
	for len(s.queue) == 0 && s.dropped == 0 && !s.closed {
		s.more.Wait()
	}
	lines, s.queue = s.queue, spare[:0]
	dropped, s.dropped = s.dropped, 0
	s.busy = true
	return lines, dropped, !s.closed
}

// write writes lines and returns how many were lost, and whether the last write, if
// any, succeeded. An error costs one line, and the next line is tried. That is not a
// busy loop, because every try consumes a line.
func (s *Sink) write(lines []byte) (lost uint64, ok bool) {
	ok = true
	for len(lines) > 0 {
		n, err := s.dest.Write(lines[:wholeLines(lines, pipeBuf)])
		if ok = err == nil; !ok {
			n += bytes.IndexByte(lines[n:], '\n') + 1
			lost++
			s.lost.Add(1)
		}
		lines = lines[n:]
		s.release(n)
	}
	return lost, ok
}

// release makes room for n bytes of new lines.
func (s *Sink) release(n int) {
	s.mu.Lock()
	s.size -= n
	s.mu.Unlock()
}

// report writes the notice of lost lines, and reports whether that succeeded.
func (s *Sink) report(lost uint64) bool {
	_, err := s.dest.Write(terminated(s.notice(lost)))
	return err == nil
}

// signalIfEmpty lets Flush return. The caller holds mu.
func (s *Sink) signalIfEmpty() {
	if s.empty != nil && len(s.queue) == 0 && s.dropped == 0 && !s.busy {
		close(s.empty)
		s.empty = nil
	}
}

// wholeLines returns the length of the longest run of whole lines within limit bytes,
// or of the first line if that alone is longer.
func wholeLines(lines []byte, limit int) int {
	if len(lines) <= limit {
		return len(lines)
	}
	if i := bytes.LastIndexByte(lines[:limit], '\n'); i >= 0 {
		return i + 1
	}
	return bytes.IndexByte(lines, '\n') + 1
}

func terminated(line []byte) []byte {
	if len(line) > 0 && line[len(line)-1] == '\n' {
		return line
	}
	return append(line, '\n')
}

func waitLog(done <-chan struct{}, timeout time.Duration) error {
	if !waitFor(done, timeout) {
		return fmt.Errorf("log not written within %s: %w", timeout, os.ErrDeadlineExceeded)
	}
	return nil
}

// waitFor reports whether done was closed within timeout. A timeout of 0 does not
// wait.
func waitFor(done <-chan struct{}, timeout time.Duration) bool {
	select {
	case <-done:
		return true
	default:
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
