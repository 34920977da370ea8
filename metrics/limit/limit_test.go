package limit

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A queue is a listener whose connections are sent to it.
type queue struct {
	conns  chan net.Conn
	closed chan struct{}
}

var errBroken = errors.New("out of descriptors")

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		if c == nil {
			return nil, errBroken
		}
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error   { close(q.closed); return nil }
func (q *queue) Addr() net.Addr { return &net.UnixAddr{} }

// accepting runs Accept until it fails, and sends what it returned.
func accepting(t *testing.T, limit int, full func(bool)) (q *queue, l *Listener, conns chan net.Conn, failed chan error) {
	q = &queue{conns: make(chan net.Conn), closed: make(chan struct{})}
	l = NewListener(q, limit, full)
	conns, failed = make(chan net.Conn, 10), make(chan error, 1) // 10: more than there will be; 1: the last one
	go func() {                                                  // ends with the listener
		for {
			conn, err := l.Accept()
			if err == nil {
				conns <- conn
			} else if err != errBroken {
				failed <- err
				return
			}
		}
	}()
	return q, l, conns, failed
}

func TestThirdOfTwoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []bool
		q, l, conns, failed := accepting(t, 2, func(full bool) { said = append(said, full) })
		clients := make([]net.Conn, 3)
		for i := range clients {
			var server net.Conn
			clients[i], server = net.Pipe()
			if i == 1 {
				q.conns <- nil // a failed Accept takes no place
			}
			if i < 2 {
				q.conns <- server
				continue
			}
			go func() { q.conns <- server }() // ends when there is room
		}
		synctest.Wait()
		if len(conns) != 2 || l.Taken() != 2 || len(said) != 1 || !said[0] {
			t.Fatalf("%d accepted, %d places taken, told %v", len(conns), l.Taken(), said)
		}
		first := <-conns
		first.Close()
		first.Close() // frees one place all the same
		synctest.Wait()
		if len(conns) != 2 || l.Taken() != 2 || len(said) != 3 || said[1] {
			t.Errorf("%d accepted, %d places taken, told %v", len(conns), l.Taken(), said)
		}
		l.Close()
		select {
		case err := <-failed:
			if !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("Accept waits for room, and does not end with the listener")
		}
	})
}

func TestCloseEndsAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l, _, failed := accepting(t, 2, nil)
		synctest.Wait()
		if l.Taken() != 1 {
			t.Errorf("%d places taken, want that of the next connection", l.Taken())
		}
		l.Close()
		if err := <-failed; !errors.Is(err, net.ErrClosed) || l.Taken() != 0 {
			t.Errorf("%v, %d places taken", err, l.Taken())
		}
	})
}
