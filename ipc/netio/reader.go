package netio

import (
	"bytes"
	"io"
	"math"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/ancillary"
)

// A Reader reads a socket into a buffer that it holds only while something is
// in it. Its owner takes bytes off the front; they stay valid until the next
// Fill. It is for one goroutine, but for Starved.
//
// It is part of its owner, which saves an allocation a connection; Init makes it
// ready.
type Reader struct {
	raw    syscall.RawConn
	conn   io.Reader
	size   int
	files  *ancillary.Closer
	filled bool // of fillSlowly: the last read filled the buffer
	full   bool // of attempt: nothing may be received until files are closed
	exact  bool
	own    atomic.Bool // what starved points to, but for a Conn; here it takes no memory of its own

	need  int32  // bytes that the buffer must have room for at the next Fill; 0: any
	most  int32  // bytes that may be in buf; 0: as many as there is room for
	buf   []byte // what has been read
	start int    // of what has not been consumed
	n     int
	err   error
	try   func(fd uintptr) bool

	starved *atomic.Bool // the last read found nothing, and none is under way
}

// A ReaderConfig says what a Reader reads, and how.
type ReaderConfig struct {
	// Raw is the socket to read. If it is nil, Conn is read, which waits with a
	// buffer held: that is for TLS.
	Raw  syscall.RawConn
	Conn io.Reader
	// Starved goes with Conn: what Conn reads from keeps it, as Starved says.
	Starved *atomic.Bool
	// Size is how much is read at once, at least 512.
	Size int
	// Files receives from Raw: a unix socket of a kernel that cannot refuse attached
	// files. It is nil for other sockets.
	Files *ancillary.Closer
	// Exact says that Need makes a buffer for what is needed and nothing behind
	// it, so that Take can hand it over.
	Exact bool
}

// Init makes a Reader that must not be copied afterwards.
func (r *Reader) Init(c ReaderConfig) {
	r.raw, r.conn, r.size, r.files, r.exact, r.starved = c.Raw, c.Conn, c.Size, c.Files, c.Exact, c.Starved
	if r.starved == nil {
		r.starved = &r.own
	}
}

// Unread returns what has been read and not consumed.
func (r *Reader) Unread() []byte { return r.buf[r.start:] }

// Buffered is the length of Unread.
func (r *Reader) Buffered() int { return len(r.buf) - r.start }

// Advance consumes the next n bytes of Unread, which stay valid until the next
// Fill.
func (r *Reader) Advance(n int) { r.start += n }

// Discard consumes all that is unread.
func (r *Reader) Discard() { r.start = len(r.buf) }

// Line consumes a line, and returns it without its end, or reports that none is
// whole. The next Fill has room for more of it.
func (r *Reader) Line() (line []byte, ok bool) {
	rest := r.Unread()
	if end := bytes.IndexByte(rest, '\n'); end >= 0 {
		r.start += end + 1
		return rest[:end], true
	}
	if len(rest) == cap(r.buf) {
		r.need = int32(min(2*cap(r.buf), math.MaxInt32))
	}
	return nil, false
}

// Need says how many bytes from the start of Unread on belong together. The
// next Fill makes room for them; until then what has been consumed stays valid.
func (r *Reader) Need(n int) { r.need = int32(n) }

// Missing returns how many bytes the next Fill takes a larger buffer for, or 0 if
// the one it has will do.
func (r *Reader) Missing() int {
	if need := int(r.need); need > r.Size() {
		return need
	}
	return 0
}

// Size is how large the buffer is, or will be, in bytes.
func (r *Reader) Size() int { return max(cap(r.buf), r.size) }

// IsFull reports whether there is no room for more, behind what is unread.
func (r *Reader) IsFull() bool { return cap(r.buf) > 0 && r.Buffered() >= r.end() }

// Grow makes room for n of the bytes that Need asked for, in all; need is what it
// asked for. It is for an owner that asks for room before each Fill.
func (r *Reader) Grow(n, need int) {
	r.need = 0
	r.reserve(n)
	if r.exact {
		r.most = 0
		if cap(r.buf) >= need {
			r.most = int32(need)
		}
	}
}

// Take consumes the next n bytes by handing over the buffer, if it was made for
// just them (see ReaderConfig.Exact): a large message need not be copied. The
// buffer is the caller's from then on. Otherwise it returns nil, and nothing is
// consumed.
func (r *Reader) Take(n int) []byte {
	if r.most == 0 || n != int(r.most) {
		return nil
	}
	whole := r.buf
	r.buf, r.start, r.most = nil, 0, 0
	return whole
}

// HasBuffer reports whether it holds a buffer.
func (r *Reader) HasBuffer() bool { return cap(r.buf) > 0 }

// Release gives the buffer back. What is unread is lost.
func (r *Reader) Release() {
	if cap(r.buf) > 0 {
		PutBuffer(r.buf)
	}
	r.buf, r.start, r.most = nil, 0, 0
}

// Starved reports whether the last read found nothing, and none is under way:
// if it does so before and after a look into the kernel that finds nothing, all
// that has arrived has been read. It may be called from any goroutine.
func (r *Reader) Starved() bool { return r.starved.Load() }

// Fill waits for more, and reads once. It returns io.EOF at the end, or
// io.ErrUnexpectedEOF if something is unread then.
func (r *Reader) Fill() error {
	if r.try == nil { // not in Init: FillNow is all that many a connection needs
		r.try = r.attempt
	}
	r.makeRoom()
	if r.raw == nil {
		return r.fillSlowly()
	}
	for {
		if err := r.raw.Read(r.try); err != nil {
			return err
		}
		if !r.full {
			return r.outcome()
		}
		r.full = false
		r.files.Await(busyTime) // not in attempt: the socket could not be closed meanwhile
	}
}

// busyTime is how long a reader that may not receive waits before it looks whether
// its deadline is over.
const busyTime = 20 * time.Millisecond

// FillNow reads what is there without waiting, and reports whether anything
// was. It is for a Reader that has read nothing yet. The end of the stream, or
// an error, is left for Fill to find again.
func (r *Reader) FillNow() bool {
	r.hold()
	_ = r.raw.Control(func(fd uintptr) { r.n, r.err = readNow(int(fd), r.buf[:cap(r.buf)]) })
	if r.err != nil || r.n <= 0 {
		r.Release()
		return false
	}
	r.buf = r.buf[:r.n]
	return true
}

// waitSize is how large a buffer is held while a Conn is waited for, in bytes. What
// is longer takes another read.
const waitSize = 512

// fillSlowly is Fill of a Conn.
func (r *Reader) fillSlowly() error {
	r.fit()
	have := len(r.buf)
	r.n, r.err = r.conn.Read(r.buf[have:r.end()])
	r.buf = r.buf[:have+r.n]
	r.filled = len(r.buf) == r.end()
	if r.n > 0 || r.err == io.EOF {
		r.err = nil // an error that comes with data comes again
	}
	return r.outcome()
}

// fit takes the buffer for the next read of a Conn: a small one, unless there was more
// to read at the last one.
func (r *Reader) fit() {
	switch {
	case r.most > 0:
	case len(r.buf) > 0:
		if len(r.buf) == cap(r.buf) {
			grown := append(GetBuffer(max(r.size, 2*cap(r.buf))), r.buf...)
			PutBuffer(r.buf)
			r.buf = grown
		}
	case r.filled && cap(r.buf) < r.size:
		r.Release()
		r.hold()
	case !r.filled && cap(r.buf) != waitSize:
		r.Release()
		r.buf = GetBuffer(waitSize)
	}
}

func (r *Reader) hold() {
	if cap(r.buf) == 0 {
		r.buf = GetBuffer(r.size)
	}
}

// end is up to where the buffer may be filled.
func (r *Reader) end() int {
	if r.most > 0 {
		return int(r.most)
	}
	return cap(r.buf)
}

func (r *Reader) outcome() error {
	switch {
	case r.err != nil:
		return r.err
	case r.n == 0 && r.Buffered() > 0:
		return io.ErrUnexpectedEOF
	case r.n == 0:
		return io.EOF
	}
	return nil
}

// makeRoom takes the larger buffer that Need has asked for, and moves what is
// unread to the front.
func (r *Reader) makeRoom() {
	if n := int(r.need); n > 0 {
		r.need = 0
		if n > r.Size() {
			r.reserve(n)
		}
	}
	switch {
	case r.start == len(r.buf):
		r.buf, r.start, r.most = r.buf[:0], 0, 0
	case r.start > 0:
		n := copy(r.buf, r.buf[r.start:])
		r.buf, r.start = r.buf[:n], 0
	}
}

// reserve makes room for n bytes from start on.
func (r *Reader) reserve(n int) {
	if n <= cap(r.buf) {
		return
	}
	grown := append(GetBuffer(n), r.buf[r.start:]...)
	PutBuffer(r.buf)
	r.buf, r.start = grown, 0
	if r.exact {
		r.most = int32(n)
	}
}

// attempt reads what is there, and gives an empty buffer back if that is
// nothing.
func (r *Reader) attempt(fd uintptr) bool {
	r.starved.Store(false)
	r.hold()
	have := len(r.buf)
	r.n, r.err = r.read(int(fd), r.buf[have:r.end()])
	switch r.err {
	case ancillary.ErrBusy:
		r.n, r.err, r.full = 0, nil, true
		if have == 0 {
			r.Release()
		}
		return true
	case unix.EAGAIN:
		r.n, r.err = 0, nil
		if have == 0 {
			r.Release()
		}
		r.starved.Store(true)
		return false
	}
	if r.n > 0 {
		r.buf = r.buf[:have+r.n]
	}
	return true
}

func (r *Reader) read(fd int, b []byte) (int, error) {
	if r.files == nil {
		return readNow(fd, b)
	}
	m, err := r.files.Receive(fd, b)
	return m.N, err
}
