package netio

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Writer holds what is to be written to one socket. Add and Flush never wait:
// what the socket does not take at once is written by a goroutine of the
// Writer's, so that a slow peer delays nothing but its own bytes.
//
// All methods need the mutex, which is the owner's; Flush releases it while it
// writes. The Writer is part of its owner, which saves an allocation a
// connection; Init makes it ready.
type Writer struct {
	mu      sync.Locker
	conn    Socket
	raw     syscall.RawConn
	stall   time.Duration
	onWrote func()
	keep    int32

	hand   int32   // the memory of what is being written
	more   *pieces // what does not fit in tail, and goes before it; or nil
	tail   []byte  // what has been added since the last write began
	spare  []byte  // an empty buffer for what is added during a write
	size   int     // bytes in more and tail, and those being written
	busy   bool    // a write is under way
	broken bool    // the socket is broken: all is dropped
	last   bool    // see Flush
	ending bool    // last, for attempt: it belongs to the one that is writing
	taken  int     // see Taken

	// These belong to the one that is writing.
	writing []byte // for attempt, which must not allocate
	wrote   int
	err     error
	try     func(fd uintptr) bool
}

// A WriterConfig says what a Writer writes to, and how.
type WriterConfig struct {
	Mutex sync.Locker // guards the Writer
	Conn  Socket
	Raw   syscall.RawConn // of Conn; nil: it can only be written to by waiting (TLS)
	Keep  int             // the size of the buffer that is kept while there is nothing to write, in bytes
	// Stall is how long a peer may take for slowPiece. Then it is given up, as if
	// the socket were broken. 0: it may take for ever.
	Stall time.Duration
	// OnWrote is called with Mutex held when all is written or the socket broke,
	// and whenever a slow peer has taken something. Busy tells which.
	OnWrote func()
}

// Init makes a Writer that must not be copied afterwards.
func (w *Writer) Init(c WriterConfig) {
	w.mu, w.conn, w.raw, w.keep, w.stall, w.onWrote = c.Mutex, c.Conn, c.Raw, int32(c.Keep), c.Stall, c.OnWrote
	w.try = w.attempt
}

// Size is how many bytes have been added and not been taken by the socket.
func (w *Writer) Size() int { return w.size }

// Holds is how much memory those bytes take, in bytes.
func (w *Writer) Holds() int {
	if w.size == 0 {
		return 0
	}
	return w.more.holds() + cap(w.tail) + int(w.hand)
}

// Taken is how many bytes the socket has taken since Init, those that are just
// being written included: the peer may have read them before the call returns.
func (w *Writer) Taken() int { return w.taken }

// Busy reports whether a write is under way.
func (w *Writer) Busy() bool { return w.busy }

// Broken reports whether the socket broke, or Break was called. What is added
// then is dropped.
func (w *Writer) Broken() bool { return w.broken }

// Add appends a copy of b to what the next Flush writes.
func (w *Writer) Add(b []byte) {
	if w.broken {
		return
	}
	w.size += len(b)
	if len(b) > cap(w.tail)-len(w.tail) {
		b = w.addSome(b)
	}
	w.tail = append(w.tail, b...)
}

// addSome makes room, and adds what does not fit in the last buffer. It returns the
// rest.
func (w *Writer) addSome(b []byte) []byte {
	if n := 2*len(w.tail) + len(b); cap(w.tail) < min(n, pieceSize) {
		grown := append(GetBuffer(min(n, pieceSize)), w.tail...)
		PutBuffer(w.tail)
		w.tail = grown
	}
	for {
		n := min(len(b), cap(w.tail)-len(w.tail))
		w.tail = append(w.tail, b[:n]...)
		if b = b[n:]; len(b) == 0 {
			return nil
		}
		w.push(w.tail)
		w.tail = GetBuffer(min(len(b), pieceSize))
	}
}

// AddBuffer adds a buffer that is the Writer's from then on.
func (w *Writer) AddBuffer(b []byte) {
	if w.broken {
		PutBuffer(b)
		return
	}
	if len(w.tail) > 0 {
		w.push(w.tail)
		w.tail = nil
	}
	w.push(b)
	w.size += len(b)
}

// push adds a buffer before tail.
func (w *Writer) push(b []byte) {
	if w.more == nil {
		w.more = new(pieces)
	}
	w.more.push(b)
}

// Flush writes what the socket takes. With last, nothing is added afterwards:
// the end of the stream follows, in the same packet if there is one. Flush
// releases the mutex while it writes; during a write of another caller it
// returns at once, and that one writes what has been added.
func (w *Writer) Flush(last bool) {
	w.last = last
	if w.busy || w.size == 0 {
		return
	}
	w.busy = true
	for w.size > 0 && !w.broken {
		b := w.take()
		last := w.last && w.more.isEmpty() && len(w.tail) == 0
		w.mu.Unlock()
		n, err := w.writeNow(b, last)
		w.mu.Lock()
		switch {
		case err == errWouldBlock:
			w.sent(n)
			// Ends when all is written, the peer has stalled, or the owner has
			// called Break and set a deadline, or closed the socket.
			go w.writeRest(b, n)
			return
		case err != nil:
			w.taken -= len(b) - n
			w.Break()
		default:
			w.sent(n)
			w.written(b)
		}
	}
	w.done()
}

// Break drops everything: nothing is written any more. What is being written
// goes on until the socket takes it, or its deadline.
func (w *Writer) Break() {
	w.broken = true
	w.size = 0
	w.more.drop()
	PutBuffer(w.tail)
	w.more, w.tail, w.spare = nil, nil, nil
}

// take removes the oldest buffer. If that is the last one, more goes into the spare
// one meanwhile.
func (w *Writer) take() (b []byte) {
	if w.more.isEmpty() {
		b = w.tail
		w.tail, w.spare = w.spare, nil
	} else {
		b = w.more.pop()
	}
	w.hand = int32(cap(b))
	w.taken += len(b)
	return b
}

// sent notes that the socket has taken n bytes.
func (w *Writer) sent(n int) {
	if !w.broken {
		w.size -= n
	}
}

// written takes a buffer back that was written.
func (w *Writer) written(b []byte) {
	w.hand = 0
	if w.spare == nil && cap(b) <= int(w.keep) && !w.broken {
		w.spare = b[:0]
		return
	}
	PutBuffer(b)
}

func (w *Writer) done() {
	w.busy = false
	if w.spare != nil && w.tail == nil {
		w.tail, w.spare = w.spare, nil
	}
	if w.onWrote != nil {
		w.onWrote()
	}
}

// writeRest writes what would block, of which n bytes are written, and what has
// been added since.
func (w *Writer) writeRest(b []byte, n int) {
	for {
		wrote, err := w.writeSlowly(b[n:])
		w.mu.Lock()
		if err != nil {
			w.taken -= len(b) - n - wrote
			w.Break()
		}
		w.written(b)
		if w.size == 0 || w.broken {
			_ = w.conn.SetWriteDeadline(time.Time{})
			w.more = nil // it may have grown large
			w.done()
			w.mu.Unlock()
			return
		}
		b, n = w.take(), 0
		w.mu.Unlock()
	}
}

// slowPiece is how much of a buffer a slow peer must take within Stall.
const slowPiece = 64 << 10

func (w *Writer) writeSlowly(b []byte) (wrote int, err error) {
	for wrote < len(b) {
		if err := w.setStall(); err != nil {
			return wrote, err
		}
		n, err := w.conn.Write(b[wrote:min(len(b), wrote+slowPiece)])
		wrote += n
		w.noteSlow(n)
		if err != nil {
			return wrote, err
		}
	}
	return wrote, nil
}

// noteSlow notes that a slow peer has taken n bytes.
func (w *Writer) noteSlow(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent(n)
	if w.onWrote != nil && !w.broken {
		w.onWrote()
	}
}

// setStall gives the peer its time, unless the owner has called Break: the
// deadline that it has set must stay.
func (w *Writer) setStall() error {
	if w.stall == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken {
		return os.ErrClosed
	}
	return w.conn.SetWriteDeadline(time.Now().Add(w.stall))
}

var errWouldBlock = os.ErrDeadlineExceeded

// writeNow writes what the socket takes at once.
func (w *Writer) writeNow(b []byte, last bool) (int, error) {
	if w.raw == nil {
		return 0, errWouldBlock
	}
	w.writing, w.ending, w.wrote, w.err = b, last, 0, nil
	err := w.raw.Write(w.try)
	w.writing = nil
	if err == nil {
		err = w.err
	}
	return w.wrote, err
}

// attempt writes until the socket is full. It always says that it is done, so
// that RawConn does not wait.
func (w *Writer) attempt(fd uintptr) bool {
	for len(w.writing) > 0 {
		n, err := writeNow(int(fd), w.writing, w.ending)
		switch {
		case err == unix.EAGAIN:
			w.err = errWouldBlock
			return true
		case err != nil:
			w.err = err
			return true
		}
		w.wrote += n
		w.writing = w.writing[n:]
	}
	if w.ending {
		shutdownNow(int(fd))
	}
	return true
}
