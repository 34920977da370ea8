package ipc

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc/frame"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// A world is a queue with a source on loopback and workers that are goroutines.
type world struct {
	t      testing.TB
	q      *Queue
	src    *listener
	log    bytes.Buffer
	logMu  sync.Mutex
	chans  []*Channel
	ended  sync.WaitGroup
	params string
}

func (w *world) Write(p []byte) (int, error) {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return w.log.Write(p)
}

func (w *world) logText() string {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return w.log.String()
}

func sane(change func(*Config)) Config {
	cfg := Config{Messages: 1024, Bytes: 64 << 20, MaxMessage: 2 << 20, Attempts: 3}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

func newWorld(t testing.TB, params string, change func(*Config)) *world {
	t.Helper()
	return newWorldOn(t, "127.0.0.1:0", params, change)
}

// newWorldOn is newWorld with another address than loopback's.
func newWorldOn(t testing.TB, addr, params string, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, params: params}
	log := zerolog.New(w)
	w.q = NewQueue(sane(change), log)
	u, err := ParseURL("tcp://" + addr + params)
	if err != nil {
		t.Fatal(err)
	}
	src, err := Open(u, w.q, log)
	if err != nil {
		t.Fatal(err)
	}
	w.src = src.(*listener)
	w.ended.Go(w.src.Serve)
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	w.q.Close()
	for _, c := range w.chans {
		c.Close("the test is over")
	}
	w.src.Close()
	w.ended.Wait()
}

// worker adds a worker that does f with its end of the channel.
func (w *world) worker(f func(sock net.Conn)) *Channel {
	w.t.Helper()
	c, file, err := w.q.NewChannel(len(w.chans))
	if err != nil {
		w.t.Fatal(err)
	}
	sock, err := net.FileConn(file)
	file.Close()
	if err != nil {
		w.t.Fatal(err)
	}
	w.chans = append(w.chans, c)
	w.ended.Go(func() {
		defer sock.Close()
		f(sock)
	})
	c.Serve()
	return c
}

// answering returns a worker that answers each message with f of it.
func answering(f func(body []byte) []byte) func(net.Conn) {
	return func(sock net.Conn) {
		r := bufio.NewReaderSize(sock, 64<<10)
		var out []byte
		for {
			body, _, err := readFrame(r)
			if err != nil {
				return
			}
			out = append(out, f(body)...)
			if r.Buffered() < frame.HeaderSize {
				if _, err := sock.Write(out); err != nil {
					return
				}
				out = out[:0]
			}
		}
	}
}

func echo(body []byte) []byte { return frame.Append(nil, body) }

func readFrame(r io.Reader) (body []byte, failed bool, err error) {
	return frame.Read(r, frame.MaxBody)
}

// A client is a connection to the world's source.
type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func (w *world) dial() *client {
	w.t.Helper()
	return w.dialTo(w.src.Addr().String())
}

func (w *world) dialTo(addr string) *client {
	w.t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	return &client{w.t, nc, bufio.NewReader(nc)}
}

func (c *client) send(bodies ...string) {
	c.t.Helper()
	var b []byte
	for _, body := range bodies {
		b = frame.Append(b, []byte(body))
	}
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// next returns the next reply; a failure as "!code: text".
func (c *client) next() string {
	c.t.Helper()
	body, failed, err := readFrame(c.r)
	if err != nil {
		return "error " + err.Error()
	}
	if failed {
		return "!" + string(body)
	}
	return string(body)
}

func (c *client) want(replies ...string) {
	c.t.Helper()
	for _, want := range replies {
		if got := c.next(); got != want {
			c.t.Errorf("reply %.100q, want %.100q", got, want)
		}
	}
}

// try sends a message and compares its reply, for a client that may be closed.
func (c *client) try(body, want string) error {
	if _, err := c.Write(frame.Append(nil, []byte(body))); err != nil {
		return err
	}
	if got := c.next(); got != want {
		return fmt.Errorf("reply %.100q, want %.100q", got, want)
	}
	return nil
}

// undisturbed is for what must not fail if it gets on as fast as it usually
// does. It does it again if it failed and took longer than that: then the
// machine stood still for a while, and that it failed says nothing.
func undisturbed(t testing.TB, usual time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		began := time.Now()
		err := f()
		took := time.Since(began)
		switch {
		case err == nil:
			return
		case took <= usual:
			t.Fatalf("after %s: %v", took, err)
		case time.Now().After(deadline):
			t.Fatalf("the machine is too slow for this test: after %s, and usually not more than %s: %v", took, usual, err)
		}
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}
