// Package client sends messages to a poolinit pool that listens with
// reply=always in its URL, and gets their replies.
//
//	c, err := client.New("tcp://127.0.0.1:8089", client.Options{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer c.Close()
//	reply, err := c.Send(ctx, []byte("hello"))
//
// What a stopping pool did not take is sent again, on a new connection, and so
// is what had no reply when the connection broke: a message is handled at least
// once. So a pool that is stopped and started again goes unnoticed, if it is
// not away for longer than Options.ConnectTimeout. docs/protocol.md has the bytes.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Options are what a client may be told. The zero value is a good one.
type Options struct {
	// Timeout is for how long nothing at all may be heard while replies are
	// owed. 0 is a minute, less is for ever: for messages that take longer.
	Timeout time.Duration

	// ConnectTimeout is for how long the pool may be away: a message is sent
	// again for so long after it could not be sent, or got no reply. 0 is 10 s.
	ConnectTimeout time.Duration

	// TLS is for a pool with cert= in its URL. With a unix socket it needs a
	// ServerName.
	TLS *tls.Config
}

// A Failure is the error of Send if the pool says that it has not handled the
// message. A program may rely on the code, never on the text. The codes are
// those of docs/protocol.md: refused, given-up, too-big, not-a-line,
// interrupted, spooled, stopping.
type Failure struct {
	Code, Text string
}

func (f *Failure) Error() string { return f.Code + ": " + f.Text }

// ErrClosed is the error of Send after Close.
var ErrClosed = errors.New("client: closed")

// A Client sends messages over one connection, and makes another one when that
// has ended. Any number of goroutines may use it: their messages go out
// together, and the pool handles them in parallel.
type Client struct {
	options Options
	dial    func(context.Context) (net.Conn, error)
	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup // added to with mu held, and only before the end

	mu      sync.Mutex
	current *link    // nil: none
	dialing *dialing // nil: nobody does
	known   bool     // there has been a connection
}

// A dialing is an attempt to connect, which all wait for who need it.
type dialing struct {
	done chan struct{} // closed when the rest is there
	link *link
	err  error
}

// New returns a client of the pool at tcp://HOST:PORT or unix:///PATH. The
// parameters of the pool's --listen URL may follow. It does not connect yet:
// Send does.
func New(url string, o Options) (*Client, error) {
	network, address, err := parse(url)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	c := &Client{options: o}
	c.life, c.end = context.WithCancel(context.Background())
	plain := &net.Dialer{}
	dial := plain.DialContext
	if o.TLS != nil {
		dial = (&tls.Dialer{NetDialer: plain, Config: o.TLS}).DialContext
	}
	c.dial = func(ctx context.Context) (net.Conn, error) { return dial(ctx, network, address) }
	return c, nil
}

// Close closes the connection. What has no reply yet fails with ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.running.Wait()
	return nil
}

// Between attempts to send a message again. The first is made at once.
const (
	firstPause = 20 * time.Millisecond
	maxPause   = time.Second
)

// Send sends a message and returns its reply. The body is copied.
//
// The error is a *Failure if the pool says that the message failed. With any
// other the message may have been handled all the same, unless there has never
// been a connection: ctx is done, the pool was away for too long, what came was
// no reply, or nothing was heard for Options.Timeout, which is an
// os.ErrDeadlineExceeded. A message whose ctx is done is not taken back.
func (c *Client) Send(ctx context.Context, body []byte) ([]byte, error) {
	if len(body) > maxMessage {
		return nil, errors.New("client: a message is shorter than 2 GiB")
	}
	var (
		since   time.Time // the first problem
		pause   time.Duration
		problem again
	)
	for {
		reply, err := c.attempt(ctx, body)
		var p again
		switch {
		case err == nil:
			return reply, nil
		case problem.err != nil && err == ctx.Err():
			return nil, fmt.Errorf("client: %w; before that: %v", err, problem.err) // %v: it may be a Failure
		case !errors.As(err, &p):
			return nil, named(err)
		case p.unknown || !problem.unknown: // else "no worker had it" would be untrue
			problem = p
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) >= c.options.ConnectTimeout && c.life.Err() == nil {
			return nil, named(problem.err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		case <-c.life.Done():
		}
		pause = min(max(2*pause, firstPause), maxPause)
	}
}

// named says in an error whose it is.
func named(err error) error {
	if _, ok := err.(*Failure); ok || err == ErrClosed {
		return err
	}
	return fmt.Errorf("client: %w", err)
}

// again is an error after which a message is sent again.
type again struct {
	err     error
	unknown bool // the message may have been handled
}

func (a again) Error() string { return a.err.Error() }

// attempt sends a message over the connection that there is, or a new one.
func (c *Client) attempt(ctx context.Context, body []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	sent, err := l.send(ctx, body)
	if err != nil {
		return nil, err
	}
	select {
	case <-sent.done:
		return sent.reply, sent.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// connected returns a connection that takes messages.
func (c *Client) connected(ctx context.Context) (*link, error) {
	c.mu.Lock()
	if c.life.Err() != nil {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	if l := c.current; l != nil && l.takes() {
		c.mu.Unlock()
		return l, nil
	}
	d := c.dialing
	if d == nil {
		d = &dialing{done: make(chan struct{})}
		c.dialing = d
		c.running.Go(func() { c.connect(d) })
	}
	c.mu.Unlock()
	select {
	case <-d.done:
		return d.link, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// connect connects, and deals with the connection until it ends.
func (c *Client) connect(d *dialing) {
	ctx, cancel := context.WithTimeout(c.life, c.options.ConnectTimeout)
	conn, err := c.dial(ctx)
	cancel()
	c.mu.Lock()
	c.dialing = nil
	switch {
	case err == nil:
		d.link = newLink(conn, c.options.Timeout)
		c.current, c.known = d.link, true
	case c.known || c.life.Err() != nil:
		d.err = again{err: err}
	default:
		d.err = err
	}
	close(d.done)
	c.mu.Unlock()
	if err == nil {
		d.link.run(c.life)
	}
}
