package output

import (
	"bytes"
	"io"
	"os"
	"reflect"
	"sync"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

const (
	readSize = 64 << 10  // what a pipe holds at most by default: one read empties it
	flushAt  = 64 << 10  // a longer batch is written before more is made of what was read
	keepOut  = 256 << 10 // a batch that grew beyond (JSON escapes make 6 bytes of one) gives its memory back
)

// timeLayout is RFC 3339 with milliseconds, quoted for JSON.
const timeLayout = `"2006-01-02T15:04:05.000Z07:00"`

// Dest is one place where whole lines go. Give the same Dest to a Sink and a Relay that print to the same
// file, and no line of one is ever torn by a line of the other. Its methods may be called concurrently.
//
// A Dest made of an *os.File survives what an *os.File does not: a broken pipe on descriptor 1 or 2 is an
// error here, whereas os.File.Write ends the process unless it asked to be notified of SIGPIPE; and
// a descriptor that somebody else has made non-blocking (it is shared with every process that inherited
// it) is waited for.
type Dest struct {
	mu   sync.Mutex
	w    io.Writer
	file *os.File // what w was made of, or nil
	torn bool     // the last write failed in the middle of a line

	// The desk of the pump that holds mu. That there is one a destination, not one a pump, is what makes an
	// idle worker cheap and 1,000 workers before a blocked destination too.
	in    []byte
	out   batch
	stamp []byte
	log   zerolog.Logger // writes into out
}

// NewDest makes a destination of w, which stays the caller's to close. A w that is a *Dest is returned.
func NewDest(w io.Writer) *Dest {
	if d, ok := w.(*Dest); ok {
		return d
	}
	d := &Dest{w: w}
	d.log = zerolog.New(&d.out)
	if f, ok := w.(*os.File); ok {
		d.useFile(f)
	}
	return d
}

// useFile goes round os.File.Write. A file that is closed stays with it: its error is the right one.
func (d *Dest) useFile(f *os.File) {
	d.file = f
	if conn, err := f.SyscallConn(); err == nil {
		d.w = newFileWriter(conn)
	}
}

// Write writes p, which should be whole lines, as one. It blocks as long as the place behind it does. An
// error means that the bytes from n on are lost; the Dest stays usable.
func (d *Dest) Write(p []byte) (n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.put(p)
}

// put is Write for whoever holds mu. After a line that an error tore it starts a new one first, so that one
// error never spoils two lines.
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

// fill reads what has arrived on fd into the desk. Only for the holder of mu.
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

// flush writes the batch and returns how many lines of it were lost. After an error the rest is not tried
// line by line: a place that fails must not make the workers slower than one that takes everything.
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

// same says whether two destinations end in one place, under whatever two names.
func (d *Dest) same(e *Dest) bool {
	if d.file == nil || e.file == nil {
		return reflect.ValueOf(d.w).Comparable() && d.w == e.w
	}
	a, errA := d.file.Stat()
	b, errB := e.file.Stat()
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// batch is lines on their way to one write.
type batch []byte

// Write implements io.Writer, for zerolog. It cannot fail.
func (b *batch) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}
