package output

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// endGrace is how much longer than its timeout Close waits for pumps that it has told to end. They need
// microseconds; when it elapses, a destination takes nothing and a pump hangs in a write to it.
const endGrace = 100 * time.Millisecond

// Relay brings workers' lines to poolinit's stdout and stderr, whole and marked with the worker they are of.
//
// A destination that takes nothing holds up the workers that print, as a full pipe does, and nobody else. One
// that fails costs the lines, which are counted; the workers notice nothing.
//
// A nil *Relay is the relay of the mode inherit. All methods may be called concurrently.
type Relay struct {
	mode Mode
	out  *Dest
	err  *Dest
	lost atomic.Uint64

	mu     sync.Mutex
	pumps  map[*pump]struct{} // that run
	tails  map[int]*tail      // by worker
	cut    int                // pumps that Close ended before the end of their stream
	closed bool
	done   chan struct{} // closed when, after closed, the last pump has ended
}

// NewRelay returns a relay to stdout and stderr, which stay the caller's; it may be given a *Dest. Where
// both lead to one file their lines never mix. For Inherit it returns nil.
func NewRelay(mode Mode, stdout, stderr io.Writer) *Relay {
	if mode == Inherit {
		return nil
	}
	r := &Relay{mode: mode, out: NewDest(stdout), err: NewDest(stderr)}
	if r.out.same(r.err) {
		r.out = r.err // this one, as it may be shared with the Sink of the log
	}
	r.pumps, r.tails = make(map[*pump]struct{}), make(map[int]*tail)
	r.done = make(chan struct{})
	return r
}

// Lost is the number of lines that a destination failed to take.
func (r *Relay) Lost() uint64 {
	if r == nil {
		return 0
	}
	return r.lost.Load()
}

// Open makes the pipes for one process of a worker. The caller owns them until CloseChild, which must follow
// whether the start works or not. An error (no descriptors left, relay closed) leaves nothing open.
func (r *Relay) Open(worker int) (*Pipes, error) {
	if r == nil {
		return &Pipes{Stdout: os.Stdout, Stderr: os.Stderr}, nil
	}
	p := &Pipes{relay: r}
	outEnd, errOut := p.pipe(&p.Stdout)
	errEnd, errErr := p.pipe(&p.Stderr)
	err := errOut
	if err == nil {
		err = errErr
	}
	if err == nil {
		p.pumps = [2]*pump{
			newPump(p, worker, "stdout", r.out, outEnd),
			newPump(p, worker, "stderr", r.err, errEnd),
		}
		p.pumps[1].tail = r.tailOf(worker)
		return p, nil
	}
	for _, f := range []*os.File{p.Stdout, p.Stderr, outEnd, errEnd} {
		_ = f.Close() // of a nil file: an error, and harmless
	}
	return nil, fmt.Errorf("cannot open output of worker %d: %w", worker, err)
}

// Close lets the pumps run on to the end of their streams, at most timeout, and then ends them: what stays
// open longer belongs to a process that outlived its worker. Open fails from now on.
//
// The error wraps os.ErrDeadlineExceeded and tells how many streams were given up, with what they had not
// yet delivered. Pumps that hang in a write are left behind, 100 ms after timeout; they end when it returns.
func (r *Relay) Close(timeout time.Duration) error {
	if r == nil {
		return nil
	}
	if r.close(time.Now().Add(timeout)) > 0 {
		waitFor(r.done, timeout+endGrace)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.cut + len(r.pumps); n > 0 {
		return fmt.Errorf("%d output streams still open after %s: %w", n, timeout, os.ErrDeadlineExceeded)
	}
	return nil
}

// close sets the deadline of all pumps and returns how many there are.
func (r *Relay) close(deadline time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for p := range r.pumps {
		_ = p.file.SetReadDeadline(deadline) // cannot fail: Open has tried it
	}
	return len(r.pumps)
}

// start runs the pumps, or, after Close, just closes their files.
func (r *Relay) start(pumps [2]*pump) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range pumps {
		if r.closed {
			_ = p.file.Close()
			continue
		}
		r.pumps[p] = struct{}{}
		go p.run() // ends with its stream, or by Close, which waits for it
	}
}

// ended is told by a pump that its work is done.
func (r *Relay) ended(p *pump, eof bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pumps, p)
	if !eof {
		r.cut++
	}
	if r.closed && len(r.pumps) == 0 {
		close(r.done)
	}
}

// Pipes is what one process of a worker prints to. Give Stdout and Stderr to the child as descriptors 1 and
// 2, then call SetPID, if it was started, and CloseChild, in this order. It is for one goroutine at a time.
type Pipes struct {
	Stdout, Stderr *os.File // the write ends, blocking, close-on-exec

	relay *Relay // nil: inherited descriptors, nothing to close
	pumps [2]*pump
	pid   atomic.Int64
}

// pipe puts a pipe's write end into w and returns its read end.
func (p *Pipes) pipe(w **os.File) (*os.File, error) {
	if p.relay.isClosed() {
		return nil, os.ErrClosed
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	*w = os.NewFile(uintptr(fds[1]), "|1")
	// Only this end: a program that finds its stdout non-blocking loses what it prints to a full pipe.
	err := unix.SetNonblock(fds[0], true)
	r := os.NewFile(uintptr(fds[0]), "|0")
	if err == nil {
		err = r.SetReadDeadline(time.Time{}) // fails if the netpoller has not taken it
	}
	return r, err
}

func (r *Relay) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// SetPID tells which process prints; records of the mode json name it. Before CloseChild, or the first lines
// may come without.
func (p *Pipes) SetPID(pid int) { p.pid.Store(int64(pid)) }

// CloseChild closes the write ends, which the child holds now, and begins to read. If nothing was started,
// this is the end of it. Further calls do nothing.
func (p *Pipes) CloseChild() {
	if p.relay == nil {
		return
	}
	_ = p.Stdout.Close()
	_ = p.Stderr.Close()
	p.relay.start(p.pumps)
	p.Stdout, p.Stderr, p.relay = nil, nil, nil
}
