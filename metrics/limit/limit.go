// Package limit bounds how many connections a server has at a time. It is for the
// servers by HTTP and on the control socket.
//
// When all places are taken, a new connection replaces the one that has been without
// a request for longest: clients that are silent or slow do not keep others out,
// however many there are. A client that has just connected, or whose request has
// arrived, is left alone. So a client cannot use up the memory and the descriptors
// of PID 1, and a probe is answered soon.
package limit

import (
	"container/list"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/ancillary"
)

const (
	// grace is how long a new connection is not replaced. It is longer than a client
	// needs to send a small request, and short enough for the thousands of silent
	// ones that may wait in the kernel's queue before a probe.
	grace = 50 * time.Millisecond
	// unreadGrace is how long a connection is not replaced on which something may have
	// arrived that the server has not seen yet. After that the server hangs.
	unreadGrace = time.Second
	// look is how often Accept looks again.
	look = 5 * time.Millisecond
)

// A Listener has at most a number of connections at a time.
type Listener struct {
	net.Listener
	limit  int
	answer time.Duration
	freed  chan struct{} // 1: a place was freed
	closed chan struct{}
	close  func()

	mu sync.Mutex
	// Of *Conn, the one that has been there for longest first.
	waiting *list.List // without a request
	busy    *list.List // whose request is being answered
}

// NewListener returns a Listener on ln. A connection whose request has been answered
// for longer than answer is replaced as well, if no other one can be; with 0 never.
func NewListener(ln net.Listener, limit int, answer time.Duration) *Listener {
	closed := make(chan struct{})
	return &Listener{
		Listener: ln, limit: limit, answer: answer, freed: make(chan struct{}, 1),
		closed: closed, close: sync.OnceFunc(func() { close(closed) }), waiting: list.New(), busy: list.New(),
	}
}

// Accept waits for a connection and then for a place.
func (l *Listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := newConn(nc, l)
	for !l.admit(c) {
		select {
		case <-l.freed:
		case <-time.After(look):
		case <-l.closed:
			nc.Close()
			return nil, net.ErrClosed
		}
	}
	return c, nil
}

// admit takes a place for a connection, if there is one or can be.
func (l *Listener) admit(c *Conn) bool {
	l.mu.Lock()
	var replaced *Conn
	if l.taken() >= l.limit {
		if replaced = l.replaceable(time.Now()); replaced == nil {
			l.mu.Unlock()
			return false
		}
		replaced.leave()
	}
	c.enter(l.waiting)
	l.mu.Unlock()
	if replaced != nil {
		_ = replaced.Conn.Close() // the server finds it closed
	}
	return true
}

// replaceable returns the connection that a new one may replace, or nil. The caller
// holds mu.
func (l *Listener) replaceable(now time.Time) *Conn {
	for e := l.waiting.Front(); e != nil; e = e.Next() {
		c := e.Value.(*Conn)
		age := now.Sub(c.since)
		if age < grace {
			break // so are all after it
		}
		if age >= unreadGrace || c.isSilent() {
			return c
		}
	}
	if first := l.busy.Front(); first != nil && l.answer > 0 {
		if c := first.Value.(*Conn); now.Sub(c.since) >= l.answer {
			return c
		}
	}
	return nil
}

// Close closes the listener, and ends an Accept that waits for a place. Connections
// stay open.
func (l *Listener) Close() error {
	l.close()
	return l.Listener.Close()
}

// Taken returns how many connections there are.
func (l *Listener) Taken() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.taken()
}

func (l *Listener) taken() int { return l.waiting.Len() + l.busy.Len() }

// A Conn frees its place when it is closed.
type Conn struct {
	net.Conn
	listener *Listener
	raw      syscall.RawConn   // nil: it is not a socket
	files    *ancillary.Closer // which reads it; nil: it is read as any socket
	starved  atomic.Bool       // the last read found nothing, and none is under way

	// Guarded by the listener's mutex.
	in    *list.List // nil: it has been replaced or closed
	place *list.Element
	since time.Time // when it came there
}

func newConn(nc net.Conn, l *Listener) *Conn {
	c := &Conn{Conn: nc, listener: l}
	if sc, ok := nc.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn() // fails for a nil connection only
	}
	if u, ok := nc.(interface{ Files() *ancillary.Closer }); ok {
		c.files = u.Files()
	}
	return c
}

// isSilent reports whether the server has seen all that has arrived. Between read(2)
// and what it does then it can be kept waiting for a processor, so what is unread
// does not say all.
func (c *Conn) isSilent() bool {
	if c.raw == nil {
		return true
	}
	if !c.starved.Load() {
		return false
	}
	unread := 0
	_ = c.raw.Control(func(fd uintptr) { unread, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }) // closed meanwhile: nothing is unread
	return unread == 0 && c.starved.Load()
}

// busyTime is how long a reader that may not receive waits before it looks whether
// its connection is closed.
const busyTime = 20 * time.Millisecond

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (n int, err error) {
	if c.raw == nil {
		return c.Conn.Read(b)
	}
	for {
		if waitErr := c.raw.Read(func(fd uintptr) bool {
			n, err = c.attempt(int(fd), b)
			return err != unix.EAGAIN
		}); waitErr != nil {
			return 0, waitErr
		}
		switch {
		case err == ancillary.ErrBusy:
			c.files.Await(busyTime)
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (c *Conn) attempt(fd int, b []byte) (n int, err error) {
	c.starved.Store(false)
	if c.files != nil {
		var m ancillary.Message
		m, err = c.files.Receive(fd, b)
		n = m.N
	} else {
		for n, err = syscall.Read(fd, b); err == syscall.EINTR; {
			n, err = syscall.Read(fd, b)
		}
	}
	if err == unix.EAGAIN {
		c.starved.Store(true)
	}
	return n, err
}

// Begin says that a whole request has arrived, and End that it has been answered.
// It reports whether all places are taken: then the connection should not be kept
// for a next request.
func (c *Conn) Begin() (full bool) {
	c.move(c.listener.busy)
	return c.listener.Taken() >= c.listener.limit
}

// End is the end of what Begin began: the connection waits for the next request.
func (c *Conn) End() { c.move(c.listener.waiting) }

func (c *Conn) move(to *list.List) {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if c.in != nil {
		c.leave()
		c.enter(to)
	}
}

// enter and leave need the listener's mutex.
func (c *Conn) enter(in *list.List) { c.in, c.place, c.since = in, in.PushBack(c), time.Now() }

func (c *Conn) leave() {
	c.in.Remove(c.place)
	c.in = nil
}

// Close closes the connection. It may be called more than once.
func (c *Conn) Close() error {
	l := c.listener
	l.mu.Lock()
	if c.in != nil {
		c.leave()
		select {
		case l.freed <- struct{}{}:
		default:
		}
	}
	l.mu.Unlock()
	return c.Conn.Close()
}
