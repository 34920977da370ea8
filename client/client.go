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
// not away for longer than Options.ConnectTimeout.
// https://github.com/poolinit/poolinit/blob/main/docs/protocol.md has the bytes.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/poolinit/poolinit/client/internal/dial"
	"github.com/poolinit/poolinit/client/internal/frame"
)

// Options are what a client may be told. The zero value is a good one.
type Options struct {
	// Timeout is how long nothing at all may be heard while replies are due. 0 is
	// a minute, less is for ever: for messages that take longer.
	Timeout time.Duration

	// ConnectTimeout is how long the pool may be away: a message that could not be
	// sent, or got no reply, is sent again for this long. 0 is 10 s.
	ConnectTimeout time.Duration

	// TLS is for a pool with cert= in its URL. With a unix socket it needs a
	// ServerName.
	TLS *tls.Config
}

// A Failure is the error of Send if the pool says that it has not handled the
// message. A program may rely on the code, never on the text.
type Failure struct {
	Code, Text string
}

func (f *Failure) Error() string {
	if f.Code == "" { // a pool of a later version, perhaps
		return f.Text
	}
	return f.Code + ": " + f.Text
}

// The codes of a Failure. There may be more: treat a code that you do not know as
// GivenUp.
const (
	Refused     = string(frame.Refused)     // the worker has looked at it and refused it; the text is the worker's
	GivenUp     = string(frame.GivenUp)     // every attempt failed; the text says how the last one did
	TooBig      = string(frame.TooBig)      // longer than the pool's --max-message; the text names the limit
	NotALine    = string(frame.NotALine)    // the pool has --deliver lines, and an end of line is in the message
	Interrupted = string(frame.Interrupted) // the pool stopped while a worker had it: it may have been handled, or in part
	Spooled     = string(frame.Spooled)     // the pool stopped; it is on its disk and is handled after the next start
	Stopping    = string(frame.Stopping)    // no pool took it within Options.ConnectTimeout: each one was stopping
)

// ErrClosed is the error of Send after Close.
var ErrClosed = errors.New("client: closed")

// A Client sends messages over one connection, and makes another one when that
// has ended. Any number of goroutines may use it: their messages go out
// together, and the pool handles them in parallel.
type Client struct {
	pool *dial.Client
}

// New returns a client of the pool at tcp://HOST:PORT or unix:///PATH. The
// parameters of the pool's --listen URL may follow. It does not connect yet:
// Send does.
func New(url string, o Options) (*Client, error) {
	pool, err := dial.Parse(url)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	pool.TLS = o.TLS
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	return &Client{dial.NewClient(pool.Connect, o.Timeout, o.ConnectTimeout)}, nil
}

// Close closes the connection. What has no reply yet fails with ErrClosed.
func (c *Client) Close() error {
	c.pool.Close()
	return nil
}

// Send sends a message and returns its reply. The body is copied.
//
// The error is a *Failure if the pool says that the message failed. With any
// other the message may have been handled all the same, unless there has never
// been a connection: ctx is done, the pool was away for too long, what came was
// no reply, or nothing was heard for Options.Timeout, which is an
// os.ErrDeadlineExceeded. A message whose ctx is done is not taken back.
func (c *Client) Send(ctx context.Context, body []byte) ([]byte, error) {
	reply, err := c.pool.Send(ctx, body)
	if err == nil {
		return reply, nil
	}
	var f *dial.Failure
	switch {
	case errors.As(err, &f):
		return nil, &Failure{string(f.Code), f.Text}
	case err == dial.ErrClosed:
		return nil, ErrClosed
	}
	return nil, fmt.Errorf("client: %w", err)
}
