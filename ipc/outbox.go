package ipc

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An outbox holds what is to be written to one socket. Whoever adds to it also
// tries to write, without ever waiting: what the socket does not take goes to
// a goroutine of its own, so that a slow reader holds nobody up but himself.
//
// Its methods need mu, which is the owner's and is let go while writing.
type outbox struct {
	mu   sync.Locker
	conn socket
	raw  syscall.RawConn // nil: conn can only be written to by waiting (TLS)
	tail []byte          // what nobody has begun to write
	size int             // bytes in tail, and those being written
	keep int             // bytes of buffer to keep while idle

	busy   bool          // somebody is writing
	failed bool          // the socket is broken: all is dropped
	last   bool          // set by the owner: nothing comes after what is there, and the socket is closed then
	stall  time.Duration // a reader that takes nothing for so long is given up; 0: never
	onIdle func()        // called with mu held when all is written, or the socket broke

	writing []byte // for attempt, which must not allocate
	ending  bool
	wrote   int
	err     error
	try     func(fd uintptr) bool
	spare   []byte
}

// init readies an outbox that holds on to a buffer of up to keep bytes while
// there is nothing to write.
func (o *outbox) init(mu sync.Locker, conn socket, raw syscall.RawConn, keep int) {
	o.mu, o.conn, o.raw, o.keep = mu, conn, raw, keep
	o.try = o.attempt
}

// add appends a copy of b.
func (o *outbox) add(b []byte) {
	if o.failed {
		return
	}
	if o.tail == nil {
		o.tail = getBuffer(len(b))
	}
	if len(o.tail)+len(b) > cap(o.tail) {
		grown := append(getBuffer(2*len(o.tail)+len(b)), o.tail...)
		putBuffer(o.tail)
		o.tail = grown
	}
	o.tail = append(o.tail, b...)
	o.size += len(b)
}

// flush writes what the socket takes. It lets go of mu while it does.
func (o *outbox) flush() {
	if o.busy || o.size == 0 {
		return
	}
	o.busy = true
	for o.size > 0 && !o.failed {
		b, last := o.take(), o.last
		o.mu.Unlock()
		n, err := o.writeNow(b, last)
		o.mu.Lock()
		switch {
		case err == errWouldBlock:
			// Ends when all is written or the socket is closed, which its owner sees to.
			go o.writeRest(b, n)
			return
		case err != nil:
			o.breakOff()
		default:
			o.written(b)
		}
	}
	o.done()
}

// take removes what is there; meanwhile more goes into the spare buffer.
func (o *outbox) take() []byte {
	b := o.tail
	o.tail, o.spare = o.spare, nil
	return b
}

func (o *outbox) written(b []byte) {
	o.size -= len(b)
	if o.spare == nil && cap(b) <= o.keep {
		o.spare = b[:0]
		return
	}
	putBuffer(b)
}

func (o *outbox) done() {
	o.busy = false
	if o.spare != nil && o.tail == nil {
		o.tail, o.spare = o.spare, nil
	}
	if o.onIdle != nil {
		o.onIdle()
	}
}

// breakOff drops everything: nobody reads it any more.
func (o *outbox) breakOff() {
	o.failed = true
	o.size = 0
	o.tail, o.spare = nil, nil
}

// writeRest writes what would block, and what has been added since.
func (o *outbox) writeRest(b []byte, n int) {
	for {
		err := o.writeSlowly(b[n:])
		o.mu.Lock()
		if err != nil {
			o.breakOff()
		} else {
			o.written(b)
		}
		if o.size == 0 || o.failed {
			_ = o.conn.SetWriteDeadline(time.Time{})
			o.done()
			o.mu.Unlock()
			return
		}
		b, n = o.take(), 0
		o.mu.Unlock()
	}
}

// slowPiece is how much of a buffer a slow reader must take within stall.
const slowPiece = 64 << 10

func (o *outbox) writeSlowly(b []byte) error {
	for len(b) > 0 {
		if err := o.setStall(); err != nil {
			return err
		}
		n, err := o.conn.Write(b[:min(len(b), slowPiece)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// setStall gives the reader its time, unless he has been given up: that deadline
// must stay.
func (o *outbox) setStall() error {
	if o.stall == 0 {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failed {
		return os.ErrClosed
	}
	return o.conn.SetWriteDeadline(time.Now().Add(o.stall))
}

var errWouldBlock = os.ErrDeadlineExceeded

// writeNow writes what the socket takes at once.
func (o *outbox) writeNow(b []byte, last bool) (int, error) {
	if o.raw == nil {
		return 0, errWouldBlock
	}
	o.writing, o.ending, o.wrote, o.err = b, last, 0, nil
	err := o.raw.Write(o.try)
	o.writing = nil
	if err == nil {
		err = o.err
	}
	return o.wrote, err
}

// attempt writes until the socket is full. It always says that it is done, so
// that RawConn does not wait.
func (o *outbox) attempt(fd uintptr) bool {
	for len(o.writing) > 0 {
		n, err := writeNow(int(fd), o.writing, o.ending)
		switch {
		case err == unix.EAGAIN:
			o.err = errWouldBlock
			return true
		case err != nil:
			o.err = err
			return true
		}
		o.wrote += n
		o.writing = o.writing[n:]
	}
	if o.ending {
		shutdownNow(int(fd))
	}
	return true
}
