package output

import (
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Mode says what becomes of the workers' stdout and stderr. The zero value is
// Inherit.
type Mode uint8

// The modes, in the order in which help texts name them.
const (
	Inherit Mode = iota // workers write to poolinit's own descriptors 1 and 2
	Prefix              // "[worker 3] line"
	JSON                // one log record a line
)

// ParseMode is the inverse of String. Its error names the value and the allowed
// ones.
func ParseMode(s string) (Mode, error) {
	for m := Inherit; m <= JSON; m++ {
		if s == m.String() {
			return m, nil
		}
	}
	return Inherit, fmt.Errorf("unknown output mode %q: want inherit, prefix or json", s)
}

// String returns the mode as a user writes it.
func (m Mode) String() string {
	switch m {
	case Inherit:
		return "inherit"
	case Prefix:
		return "prefix"
	case JSON:
		return "json"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// endGrace is how much longer than its timeout Close waits for pumps that it has told
// to end. They need microseconds. When it elapses, a destination takes nothing, and a
// pump hangs in a write to it.
const endGrace = 100 * time.Millisecond

// A Relay brings the lines of workers to poolinit's stdout and stderr, whole and
// marked with the worker that they are from.
//
// A destination that takes nothing holds up the workers that print, as a full pipe
// does, and nothing else. A destination that fails loses the lines, which are
// counted; the workers notice nothing.
//
// A nil *Relay is the relay of the mode inherit. All methods may be called
// concurrently.
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

// NewRelay returns a relay to stdout and stderr, which the caller closes and which
// may be *Dest. Where both lead to one file their lines never mix. For Inherit it
// returns nil.
func NewRelay(mode Mode, stdout, stderr io.Writer) *Relay {
	if mode == Inherit {
		return nil
	}
	out, err := NewDest(stdout), NewDest(stderr)
	if out.same(err) {
		out = err // this one, because the Sink of the log may use it too
	}
	return &Relay{
		mode: mode, out: out, err: err,
		pumps: make(map[*pump]struct{}), tails: make(map[int]*tail), done: make(chan struct{}),
	}
}

// Lost returns the number of lines that a destination failed to take.
func (r *Relay) Lost() uint64 {
	if r == nil {
		return 0
	}
	return r.lost.Load()
}

// Open makes the pipes for one process of a worker. The caller owns them until
// CloseChild, which it must call whether the process starts or not. After an error
// (no descriptors left, relay closed) nothing is open.
func (r *Relay) Open(worker int) (*Pipes, error) {
	if r == nil {
		return &Pipes{Stdout: os.Stdout, Stderr: os.Stderr}, nil
	}
	outEnd, stdout, err := r.pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot open output of worker %d: %w", worker, err)
	}
	errEnd, stderr, err := r.pipe()
	if err != nil {
		outEnd.Close()
		stdout.Close()
		return nil, fmt.Errorf("cannot open output of worker %d: %w", worker, err)
	}
	p := &Pipes{relay: r, Stdout: stdout, Stderr: stderr}
	p.pumps = [2]*pump{
		newPump(p, worker, "stdout", r.out, outEnd, nil),
		newPump(p, worker, "stderr", r.err, errEnd, r.tailOf(worker)),
	}
	return p, nil
}

func (r *Relay) pipe() (read, write *os.File, err error) {
	r.mu.Lock()
	closed := r.closed
	r.mu.Unlock()
	if closed {
		return nil, nil, os.ErrClosed
	}
	return PollablePipe()
}

// Close lets the pumps run to the end of their streams, at most timeout, and then
// ends them: a stream that stays open longer belongs to a process that outlived its
// worker. From now on Open fails.
//
// The error wraps os.ErrDeadlineExceeded and has the number of streams that were
// abandoned, with the bytes that they had not delivered. Pumps that hang in a write
// are left behind 100 ms after timeout. They end when the write returns.
func (r *Relay) Close(timeout time.Duration) error {
	if r == nil {
		return nil
	}
	if r.setDeadline(time.Now().Add(timeout)) > 0 {
		waitFor(r.done, timeout+endGrace)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.cut + len(r.pumps); n > 0 {
		return fmt.Errorf("%d output streams still open after %s: %w", n, timeout, os.ErrDeadlineExceeded)
	}
	return nil
}

// setDeadline refuses new pumps, sets the deadline of all that run, and returns how
// many those are.
func (r *Relay) setDeadline(deadline time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for p := range r.pumps {
		_ = p.file.SetReadDeadline(deadline) // cannot fail: PollablePipe has tried it
	}
	return len(r.pumps)
}

// start runs the pumps. After Close it only closes their files.
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

// ended is called by a pump when it has finished.
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

// Tail returns the last lines that the processes of a worker have printed to stderr:
// at most 20, and 4 KiB. It includes everything that they have written, even if the
// destination takes nothing: it does not wait for that.
func (r *Relay) Tail(worker int) string {
	if r == nil {
		return ""
	}
	t, pumps := r.tailAndPumps(worker)
	if t == nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.kept
	all.text = slices.Clone(all.text)
	for _, p := range pumps {
		all.add(p, p.peek())
	}
	return all.lines()
}

// tailAndPumps returns the tail of a worker, and the pumps that add to it.
func (r *Relay) tailAndPumps(worker int) (t *tail, pumps []*pump) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t = r.tails[worker]; t == nil {
		return nil, nil
	}
	for p := range r.pumps {
		if p.tail == t {
			pumps = append(pumps, p)
		}
	}
	return t, pumps
}

// tailOf returns the tail of a worker. The first call makes it.
func (r *Relay) tailOf(worker int) *tail {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tails[worker]
	if t == nil {
		t = new(tail)
		r.tails[worker] = t
	}
	return t
}

// Pipes is the stdout and stderr of one process of a worker. The caller gives Stdout
// and Stderr to the child as descriptors 1 and 2, then calls SetPID, if the child was
// started, and CloseChild, in this order. It is for one goroutine at a time.
type Pipes struct {
	Stdout, Stderr *os.File // the write ends, blocking, close-on-exec

	relay *Relay // nil: inherited descriptors, nothing to close
	pumps [2]*pump
	pid   atomic.Int64
}

// SetPID sets the PID that records of the mode json have. It is called before
// CloseChild: otherwise the first lines may come without it.
func (p *Pipes) SetPID(pid int) { p.pid.Store(int64(pid)) }

// CloseChild closes the write ends, which the child has copies of, and begins to
// read. If no child was started, the pumps end at once. More calls do nothing.
func (p *Pipes) CloseChild() {
	if p.relay == nil {
		return
	}
	_ = p.Stdout.Close()
	_ = p.Stderr.Close()
	p.relay.start(p.pumps)
	p.Stdout, p.Stderr, p.relay = nil, nil, nil
}

// PollablePipe makes a pipe for a child's output. The read end is in the netpoller:
// it has deadlines, and a read that waits needs no thread. The write end is blocking,
// because a program that finds its stdout non-blocking loses what it prints to a full
// pipe. Both are close-on-exec.
func PollablePipe() (read, write *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	nonblockErr := unix.SetNonblock(fds[0], true) // before NewFile, which looks at it
	read, write = os.NewFile(uintptr(fds[0]), "|0"), os.NewFile(uintptr(fds[1]), "|1")
	if err = nonblockErr; err == nil {
		err = read.SetReadDeadline(time.Time{}) // fails if the netpoller has not taken it
	}
	if err != nil {
		read.Close()
		write.Close()
		return nil, nil, err
	}
	return read, write, nil
}
