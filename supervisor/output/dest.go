package output

import (
	"bytes"
	"io"
	"os"
	"reflect"
	"sync"
	"syscall"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper"
)

const (
	readSize = 64 << 10  // a pipe holds no more by default: one read empties it
	flushAt  = 64 << 10  // a batch this long is written before more lines are added
	keepOut  = 256 << 10 // a batch that grew larger (a JSON escape has 6 bytes) gives its memory back
)

// timeLayout is RFC 3339 with milliseconds, quoted for JSON.
const timeLayout = `"2006-01-02T15:04:05.000Z07:00"`

// Dest is one place that lines are written to. If a Sink and a Relay that print to
// the same file are given the same Dest, a line of one never tears a line of the
// other. Its methods may be called concurrently.
//
// A Dest made of an *os.File avoids two faults of os.File.Write. For a broken pipe on
// descriptor 1 or 2 it returns an error, whereas os.File.Write ends the process
// unless that has asked for SIGPIPE. And it waits for a descriptor that another
// process has made non-blocking, which the processes that inherited it share.
type Dest struct {
	mu   sync.Mutex
	w    io.Writer
	file *os.File // what w was made of, or nil
	torn bool     // the last write failed in the middle of a line

	// The buffers of the pump that holds mu. They belong to the destination and not
	// to a pump, so that idle workers need none, nor do 1,000 workers that wait for
	// a blocked destination.
	in    []byte
	out   batch
	stamp []byte
	log   zerolog.Logger // writes into out
}

// NewDest makes a destination of w, which the caller closes. If w is a *Dest already
// it is returned.
func NewDest(w io.Writer) *Dest {
	if d, ok := w.(*Dest); ok {
		return d
	}
	d := &Dest{w: w}
	d.log = zerolog.New(&d.out)
	if f, ok := w.(*os.File); ok {
		d.file = f
		// A file that is closed keeps its own Write, which returns the right error.
		if conn, err := f.SyscallConn(); err == nil {
			d.w = newFileWriter(conn)
		}
	}
	return d
}

// Write writes p, which should be whole lines, in one piece. It blocks while the
// place behind it does. An error means that the bytes from n on are lost. The Dest
// stays usable.
func (d *Dest) Write(p []byte) (n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.put(p)
}

// put is Write for a caller that holds mu. If an error has torn the last line, it
// starts a new one first, so that one error never spoils two lines.
func (d *Dest) put(p []byte) (int, error) {
	if d.torn {
		if _, err := d.w.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
		d.torn = false
	}
	n, err := d.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil && n > 0 {
		d.torn = p[n-1] != '\n'
	}
	return n, err
}

// fill reads from fd into the buffer in. The caller holds mu.
func (d *Dest) fill(fd int) (n int, err error) {
	if d.in == nil {
		d.in = make([]byte, readSize)
	}
	for {
		n, err = unix.Read(fd, d.in)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// flush writes the batch and returns how many of its lines were lost. After an error
// it does not try the rest line by line: a place that fails must not make workers
// slower than one that takes everything. The caller holds mu.
func (d *Dest) flush() (lost int) {
	if len(d.out) == 0 {
		return 0
	}
	if n, err := d.put(d.out); err != nil {
		lost = bytes.Count(d.out[n:], []byte{'\n'})
	}
	d.out = d.out[:0]
	if cap(d.out) > keepOut {
		d.out = nil
	}
	return lost
}

// same reports whether two destinations lead to one place, which may have several
// names.
func (d *Dest) same(e *Dest) bool {
	if d.file == nil || e.file == nil {
		return reflect.ValueOf(d.w).Comparable() && d.w == e.w
	}
	a, errA := d.file.Stat()
	b, errB := e.file.Stat()
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// batch holds lines for the next write.
type batch []byte

// Write implements io.Writer, for zerolog. It cannot fail.
func (b *batch) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

// fileWriter writes to a descriptor. It is not safe for concurrent use: the mutex of
// its Dest guards it.
type fileWriter struct {
	conn syscall.RawConn
	tty  bool
	step func(fd uintptr) bool // attempt, bound once: a method value per write would allocate

	p   []byte // the write in progress, how far it is, and what ended it
	n   int
	err error
}

func newFileWriter(conn syscall.RawConn) *fileWriter {
	w := &fileWriter{conn: conn}
	w.step = w.attempt
	_ = conn.Control(func(fd uintptr) { // if it is closed, the writes report that
		_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		w.tty = err == nil
	})
	return w
}

// Write writes all of p, or returns how much it wrote and why it stopped there.
func (w *fileWriter) Write(p []byte) (int, error) {
	if w.tty {
		// The foreground of the terminal may be lent to a worker.
		if restore, err := reaper.BlockSignals(unix.SIGTTOU); err == nil {
			defer restore()
		}
	}
	w.p, w.n, w.err = p, 0, nil
	err := w.conn.Write(w.step)
	w.p = nil
	if w.err != nil {
		err = w.err
	}
	return w.n, err
}

// attempt always finishes the write, so that the netpoller never waits: it knows
// nothing of a descriptor that became non-blocking after it was opened.
func (w *fileWriter) attempt(fd uintptr) bool {
	for w.n < len(w.p) && w.err == nil {
		n, err := unix.Write(int(fd), w.p[w.n:])
		switch {
		case err == unix.EAGAIN:
			waitWritable(int(fd))
		case err == unix.EINTR:
		case err != nil:
			w.err = err
		case n == 0:
			w.err = io.ErrShortWrite
		default:
			w.n += n
		}
	}
	return true
}

// waitWritable returns when a write may get further, or would fail: poll reports
// errors as well.
func waitWritable(fd int) {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	_, _ = unix.Poll(fds[:], -1)
}
