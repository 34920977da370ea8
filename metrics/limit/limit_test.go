package limit

import (
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
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

// A world is a listener with room for two, whose connections are accepted.
type world struct {
	t      *testing.T
	q      *queue
	l      *Listener
	conns  chan *Conn
	failed chan error
}

func newWorld(t *testing.T, answer time.Duration) *world {
	w := &world{t: t, q: &queue{conns: make(chan net.Conn, 10), closed: make(chan struct{})}, // 10: more than there will be
		conns: make(chan *Conn, 10), failed: make(chan error, 1)}
	w.l = NewListener(w.q, 2, answer)
	go func() { // ends with the listener
		for {
			conn, err := w.l.Accept()
			if err == nil {
				w.conns <- conn.(*Conn)
			} else if err != errBroken {
				w.failed <- err
				return
			}
		}
	}()
	return w
}

// connect connects a client.
func (w *world) connect() net.Conn {
	client, server := net.Pipe()
	w.q.conns <- server
	return client
}

// accepted returns the connection that is accepted within the given time, or nil.
func (w *world) accepted(within time.Duration) *Conn {
	time.Sleep(within)
	synctest.Wait()
	select {
	case c := <-w.conns:
		return c
	default:
		return nil
	}
}

func (w *world) end() {
	w.t.Helper()
	w.l.Close()
	if err := <-w.failed; !errors.Is(err, net.ErrClosed) {
		w.t.Error(err)
	}
}

func isClosed(client net.Conn) bool {
	_ = client.SetReadDeadline(time.Now().Add(time.Nanosecond)) // a pipe has deadlines
	_, err := client.Read(make([]byte, 1))
	return err.Error() == "EOF"
}

// When all places are taken a newcomer replaces the one that has been without a
// request for longest, but none that has just come.
func TestNewcomerReplacesTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		defer w.end()
		first, second := w.connect(), w.connect()
		w.q.conns <- nil // a failed Accept takes no place
		c1, c2 := w.accepted(0), w.accepted(0)
		c1.Begin()
		c1.End() // since then it is the younger one
		third := w.connect()
		if w.accepted(grace-time.Millisecond) != nil {
			t.Error("one that has just come is replaced")
		}
		if c3 := w.accepted(2 * look); c3 == nil || isClosed(first) || !isClosed(second) || isClosed(third) {
			t.Errorf("third: %v; closed: %v, %v, %v", c3, isClosed(first), isClosed(second), isClosed(third))
		}
		c2.Close() // the server's own: frees no place twice
		c2.End()
		if n := w.l.Taken(); n != 2 {
			t.Errorf("%d places taken", n)
		}
	})
}

// Those whose requests are being answered are not replaced, or only after a time.
func TestBusyOnesStay(t *testing.T) {
	for _, answer := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, answer)
			defer w.end()
			first := w.connect()
			w.connect()
			c1, c2 := w.accepted(0), w.accepted(0)
			c1.Begin()
			c2.Begin()
			w.connect()
			switch c3 := w.accepted(answer + time.Minute); {
			case answer == 0 && c3 != nil || answer > 0 && (c3 == nil || !isClosed(first)):
				t.Errorf("accepted %v", c3)
			case answer == 0:
				c2.Close()
				if w.accepted(0) == nil {
					t.Error("a free place is not taken")
				}
			}
		})
	}
}

func TestCloseEndsAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		for range 2 {
			w.connect()
			w.accepted(0).Begin()
		}
		third := w.connect()
		synctest.Wait()
		w.end()
		if !isClosed(third) || w.l.Taken() != 2 {
			t.Errorf("%d places taken", w.l.Taken())
		}
	})
}

// A connection that the server has not read yet may have a request.
func TestUnseenIsNotReplaced(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := NewListener(ln, 2, 0)
	defer l.Close()
	dial := func(sends string) (client net.Conn) {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		if _, err := client.Write([]byte(sends)); err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if sends == "" {
			go server.Read(make([]byte, 1)) // ends with the connection
			testkit.Eventually(t, "the server has looked", func() (any, bool) { return nil, server.(*Conn).isSilent() })
		}
		return client
	}
	asks, silent := dial("request"), dial("")
	dial("")
	for client, want := range map[net.Conn]string{asks: "i/o timeout", silent: "EOF"} {
		_ = client.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // enough for what has happened already
		if _, err := client.Read(make([]byte, 1)); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
