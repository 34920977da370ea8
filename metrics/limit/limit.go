// Package limit bounds how many connections a server has at a time. It is for the
// servers by HTTP and on the control socket.
//
// Connections over the limit are not refused: they wait in the kernel's queue until
// one is closed. So a client that is slow, or opens too many, cannot use up the
// memory and the descriptors of PID 1.
package limit

import (
	"net"
	"sync"
)

// A Listener accepts at most a number of connections at a time.
type Listener struct {
	net.Listener
	room   chan struct{} // as many as the limit: a semaphore
	full   func(bool)
	closed chan struct{}
	close  func()
}

// NewListener returns a Listener on ln. full, which may be nil, is called with true
// when a connection has to wait, and with false when it need not wait any longer.
func NewListener(ln net.Listener, limit int, full func(bool)) *Listener {
	if full == nil {
		full = func(bool) {}
	}
	closed := make(chan struct{})
	return &Listener{
		Listener: ln, room: make(chan struct{}, limit), full: full,
		closed: closed, close: sync.OnceFunc(func() { close(closed) }),
	}
}

// Accept waits for room and then for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	default:
		l.full(true)
		select {
		case l.room <- struct{}{}:
			l.full(false)
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &Conn{Conn: conn, free: sync.OnceFunc(func() { <-l.room })}, nil
}

// Close closes the listener, and ends an Accept that waits for room. Connections stay
// open.
func (l *Listener) Close() error {
	l.close()
	return l.Listener.Close()
}

// Taken returns how many places are taken: by connections, and by an Accept that
// waits for one.
func (l *Listener) Taken() int { return len(l.room) }

// A Conn frees its place when it is closed.
type Conn struct {
	net.Conn
	free func()
}

// Close closes the connection. It may be called more than once.
func (c *Conn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
