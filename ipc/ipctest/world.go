// Package ipctest has what the tests of ipc and its sources share: a queue with
// workers that are goroutines, a client, and waiting with a deadline.
package ipctest

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

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
)

// Patience is how long a test waits for what must happen.
const Patience = 30 * time.Second

// A World is a queue with workers that are goroutines, and with sources. All of
// it ends with the test.
type World struct {
	T      testing.TB
	Q      *ipc.Queue
	Log    Log
	Config ipc.Config
	Ended  sync.WaitGroup // of goroutines that end with the world

	chans   []*ipc.Channel
	sources []ipc.Source
}

// Config is one that suits most tests, but for change.
func Config(change func(*ipc.Config)) ipc.Config {
	cfg := ipc.Config{QueueMessages: 1024, QueueBytes: 64 << 20, ReplyBytes: 64 << 20, MaxMessage: 2 << 20, Attempts: 3}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

// NewWorld returns a world without workers and sources.
func NewWorld(t testing.TB, change func(*ipc.Config)) *World {
	t.Helper()
	w := &World{T: t, Config: Config(change)}
	w.Q = ipc.NewQueue(w.Config, w.Log.Logger())
	t.Cleanup(w.end)
	return w
}

func (w *World) end() {
	w.Q.Close()
	w.CloseChannels("the test is over")
	for _, s := range w.sources {
		s.Close()
	}
	w.Ended.Wait()
}

// CloseChannels ends all workers.
func (w *World) CloseChannels(why string) {
	for _, c := range w.chans {
		c.Close(why)
	}
	w.chans = nil
}

// Open opens a source. It is closed at the end.
func (w *World) Open(open func(*ipc.Queue, zerolog.Logger) (ipc.Source, error)) ipc.Source {
	w.T.Helper()
	s, err := open(w.Q, w.Log.Logger())
	if err != nil {
		w.T.Fatal(err)
	}
	w.sources = append(w.sources, s)
	return s
}

// Serve opens a source and serves it.
func (w *World) Serve(open func(*ipc.Queue, zerolog.Logger) (ipc.Source, error)) ipc.Source {
	w.T.Helper()
	s := w.Open(open)
	w.Ended.Go(s.Serve)
	return s
}

// Worker adds a worker that does f with its end of the channel.
func (w *World) Worker(f func(sock net.Conn)) *ipc.Channel {
	w.T.Helper()
	c, sock := w.NewChannel(len(w.chans))
	w.chans = append(w.chans, c)
	w.Ended.Go(func() {
		defer sock.Close()
		f(sock)
	})
	c.Serve(true, time.Time{})
	return c
}

// NewChannel returns a channel, which the test closes, and the worker's end of
// it.
func (w *World) NewChannel(worker int) (*ipc.Channel, net.Conn) {
	w.T.Helper()
	c, file, err := w.Q.NewChannel(worker)
	if err != nil {
		w.T.Fatal(err)
	}
	sock, err := net.FileConn(file)
	file.Close()
	if err != nil {
		w.T.Fatal(err)
	}
	return c, sock
}

// Answering returns a worker that answers each message with f of it.
func Answering(f func(body []byte) []byte) func(net.Conn) {
	return func(sock net.Conn) {
		r := bufio.NewReaderSize(sock, 64<<10)
		var out []byte
		for {
			body, _, err := ReadFrame(r)
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

// Echo answers a message with itself.
func Echo(body []byte) []byte { return frame.Append(nil, body) }

// Silent is a worker that reads and never answers.
func Silent(sock net.Conn) {
	for {
		if _, _, err := ReadFrame(sock); err != nil {
			return
		}
	}
}

// ReadFrame reads one frame.
func ReadFrame(r io.Reader) (body []byte, failed bool, err error) {
	return frame.Read(r, frame.MaxBody)
}

// A Collector is a worker that keeps what it gets.
type Collector struct {
	mu  sync.Mutex
	got []string
}

// Add is for Answering.
func (c *Collector) Add(body []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, string(body))
	return frame.Append(nil, nil)
}

// All returns what it has got.
func (c *Collector) All() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.got...)
}

// Expect waits until it has got just these messages.
func (c *Collector) Expect(t testing.TB, want ...string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("messages %.200q", want), func() bool { return fmt.Sprint(c.All()) == fmt.Sprint(want) })
}

// A Client is a connection to a stream source.
type Client struct {
	t testing.TB
	net.Conn
	R *bufio.Reader
}

// Dial connects a client. It is closed at the end of the test.
func Dial(t testing.TB, network, addr string) *Client {
	t.Helper()
	nc, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(Patience))
	return NewClient(t, nc)
}

// NewClient returns the client of a connection.
func NewClient(t testing.TB, nc net.Conn) *Client { return &Client{t, nc, bufio.NewReader(nc)} }

// Send sends messages.
func (c *Client) Send(bodies ...string) {
	c.t.Helper()
	var b []byte
	for _, body := range bodies {
		b = frame.Append(b, []byte(body))
	}
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// Next returns the next reply; a failure as "!code: text".
func (c *Client) Next() string {
	c.t.Helper()
	body, failed, err := ReadFrame(c.R)
	if err != nil {
		return "error " + err.Error()
	}
	if failed {
		return "!" + string(body)
	}
	return string(body)
}

// Want compares the next replies.
func (c *Client) Want(replies ...string) {
	c.t.Helper()
	for _, want := range replies {
		if got := c.Next(); got != want {
			c.t.Errorf("reply %.100q, want %.100q", got, want)
		}
	}
}

// Try sends a message and compares its reply, for a client that may be closed.
func (c *Client) Try(body, want string) error {
	if _, err := c.Write(frame.Append(nil, []byte(body))); err != nil {
		return err
	}
	if got := c.Next(); got != want {
		return fmt.Errorf("reply %.100q, want %.100q", got, want)
	}
	return nil
}

// A Log is one that a test looks at.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Logger returns a logger that writes to it.
func (l *Log) Logger() zerolog.Logger { return zerolog.New(l) }

// Write appends to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// Text returns what has been logged since the last Reset.
func (l *Log) Text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Reset forgets what has been logged.
func (l *Log) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

// Undisturbed is for what must not fail if it gets on as fast as it usually
// does. It does it again if it failed and took longer than that: then the
// machine stood still for a while, and the failure says nothing.
func Undisturbed(t testing.TB, usual time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(Patience)
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

// Eventually waits for a condition.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", Patience, what)
		}
	}
}

// IsClosed reports whether a channel is closed.
func IsClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// NewDesk returns a desk in a lane that change may set up.
func (w *World) NewDesk(change func(*ipc.Lane)) *Desk {
	d := &Desk{t: w.T, q: w.Q, ended: make(map[string]string), meta: make(map[string]string)}
	d.Stats.Name = "tcp://desk"
	d.lane.Source = &d.Stats
	if change != nil {
		change(&d.lane)
	}
	d.Flow = ipc.NewFlow(&d.lane)
	return d
}
