package dial

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/poolinit/poolinit/client/internal/frame"
)

// ErrClosed is the error of Client.Send after Close.
var ErrClosed = errors.New("closed")

var (
	errTooLong = errors.New("a message is shorter than 2 GiB")
	errTagged  = errors.New("a message with a tag has at most 1 GiB - 128 KiB, and its meta 64 KiB")
	errMeta    = errors.New("only a pool with tagged=true in its URL takes more than a body")
	errRetired = retryable{err: errors.New("the pool closed the connection")}
)

// A Client sends messages over one connection, and makes another one when that
// has ended. Any number of goroutines may use it: their messages go out
// together, and the pool handles them in parallel.
type Client struct {
	dial           Connect
	tagged         bool
	timeout        time.Duration
	connectTimeout time.Duration
	life           context.Context // done after Close
	end            context.CancelFunc
	running        sync.WaitGroup // added to with mu held, and only before the end

	mu      sync.Mutex
	current *link    // the latest connection; nil before the first one
	dialing *attempt // nil while there is none
	known   bool     // there has been a connection
}

// An attempt is one to connect. All calls of Send that need a connection wait for
// the same one.
type attempt struct {
	done chan struct{} // closed when the rest is set
	link *link
	err  error
}

// NewClient returns a client. It does not connect yet: Send does.
//
// After timeout without a byte while replies are due the messages fail; 0 or less
// waits for ever. After connectTimeout an attempt to connect fails; also, a
// message that could not be sent, or got no reply, is sent again for this long.
func NewClient(dial Connect, timeout, connectTimeout time.Duration) *Client {
	c := &Client{dial: dial, timeout: timeout, connectTimeout: connectTimeout}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// NewTaggedClient is NewClient for a pool with tagged=true in its URL.
func NewTaggedClient(dial Connect, timeout, connectTimeout time.Duration) *Client {
	c := NewClient(dial, timeout, connectTimeout)
	c.tagged = true
	return c
}

// Close closes the connection. Messages without a reply fail with ErrClosed.
func (c *Client) Close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.running.Wait()
}

// A retryable is an error after which a message is sent again.
type retryable struct {
	err     error
	unknown bool // the message may have been handled
}

func (r retryable) Error() string { return r.err.Error() }

// A Reply is what the pool answers.
type Reply struct {
	Body []byte
	Meta []byte // of a tagged pool: a JSON object, or nothing
}

// Send sends a message and returns its reply. The body is copied, and the meta,
// which is a JSON object or nothing, and nothing for a pool without tags.
//
// The error is a *Failure if the pool says that the message failed. With any
// other error the message may have been handled, unless there has never been a
// connection. A message whose ctx is done is not taken back.
func (c *Client) Send(ctx context.Context, body, meta []byte) (none Reply, err error) {
	if err := c.check(body, meta); err != nil {
		return none, err
	}
	var (
		since   time.Time // the first problem
		pause   time.Duration
		problem retryable
	)
	for {
		reply, err := c.try(ctx, body, meta)
		var p retryable
		switch {
		case err == nil:
			return reply, nil
		case problem.err != nil && err == ctx.Err():
			return none, fmt.Errorf("%w; before that: %v", err, problem.err) // %v: it may be a Failure
		case !errors.As(err, &p):
			return none, err
		case p.unknown || !problem.unknown: // "no worker had it" must not hide "it may have been handled"
			problem = p
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) >= c.connectTimeout && c.life.Err() == nil {
			return none, problem.err
		}
		c.wait(ctx, pause)
		pause = longer(pause)
	}
}

// check returns what is wrong with a message.
func (c *Client) check(body, meta []byte) error {
	switch {
	case !c.tagged && len(meta) > 0:
		return errMeta
	case c.tagged && (len(body) > frame.MaxTaggedBody || len(meta) > frame.MaxMeta):
		return errTagged
	case len(body) > frame.MaxBody:
		return errTooLong
	}
	return nil
}

// wait waits for a pause, until ctx is done, or the client is closed.
func (c *Client) wait(ctx context.Context, pause time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	wait(ctx, pause)
}

// try sends a message over the current connection, or over a new one.
func (c *Client) try(ctx context.Context, body, meta []byte) (none Reply, err error) {
	if err := ctx.Err(); err != nil {
		return none, err
	}
	l, err := c.connected(ctx)
	if err != nil {
		return none, err
	}
	sent, err := l.send(ctx, body, meta)
	if err != nil {
		return none, err
	}
	select {
	case <-sent.done:
		return sent.reply, sent.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// connected returns a connection that takes messages.
func (c *Client) connected(ctx context.Context) (*link, error) {
	c.mu.Lock()
	if c.life.Err() != nil {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	if l := c.current; l != nil && !l.isRetired() {
		c.mu.Unlock()
		return l, nil
	}
	a := c.dialing
	if a == nil {
		a = &attempt{done: make(chan struct{})}
		c.dialing = a
		c.running.Add(1)
		go c.connect(a) // ends with its connection, at the latest in Close, which waits for it
	}
	c.mu.Unlock()
	select {
	case <-a.done:
		return a.link, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// connect connects, and serves the connection until it ends.
func (c *Client) connect(a *attempt) {
	defer c.running.Done()
	ctx, cancel := context.WithTimeout(c.life, c.connectTimeout)
	conn, err := c.dial(ctx)
	cancel()
	c.mu.Lock()
	c.dialing = nil
	switch {
	case err == nil:
		a.link = newLink(conn, c.timeout, c.tagged)
		c.current, c.known = a.link, true
	case c.known || c.life.Err() != nil:
		a.err = retryable{err: err}
	default: // there has never been a pool here: waiting for it is up to the caller
		a.err = err
	}
	close(a.done)
	c.mu.Unlock()
	if err == nil {
		a.link.run(c.life)
	}
}
