// Package client sends messages to a poolinit pool that listens with
// reply=always or tagged=true in its URL, and gets their replies.
//
//	c, err := client.New("tcp://127.0.0.1:8089", client.Options{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer c.Close()
//	reply, err := c.Send(ctx, []byte("hello"))
//
// With tagged=true in the URL of both a slow message holds up no other reply, and
// Client.SendMessage sends more than a body:
//
//	c, err := client.New("tcp://127.0.0.1:8089?tagged=true", client.Options{})
//	...
//	reply, err := c.SendMessage(ctx, client.Message{Body: body, Key: "user 1991"})
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
	"encoding/json"
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

	// After is how long to wait before the message is sent again, if the code is
	// Retry. The text begins with it.
	After time.Duration
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
	Expired     = string(frame.Expired)     // it waited for longer than the expires= of the pool's URL; no worker had it
	Retry       = string(frame.Retry)       // the worker asks for it again, after Failure.After
	NotTagged   = string(frame.NotTagged)   // the pool has tagged=true in its URL, and this client not; or it does not take the message's meta
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
	pool   *dial.Client
	tagged bool
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
	if pool.Tagged {
		return &Client{dial.NewTaggedClient(pool.Connect, o.Timeout, o.ConnectTimeout), true}, nil
	}
	return &Client{dial.NewClient(pool.Connect, o.Timeout, o.ConnectTimeout), false}, nil
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
	reply, err := c.send(ctx, body, nil)
	return reply.Body, err
}

// A Message is a body, and what is known of it beside. The worker finds that in the
// message's meta if the pool has --deliver tagged.
type Message struct {
	Body    []byte
	ID      string            // instead of the pool's own number of the message
	Key     string            // of what it is about, such as a user
	Headers map[string]string // whatever else there is
}

// A Reply is what the worker has answered.
type Reply struct {
	Body []byte
	Type string // its content type, if the worker has set one
}

// ErrPlain is the error of SendMessage with more than a body, if the URL of the
// pool does not say tagged=true.
var ErrPlain = errors.New("client: a message with more than a body needs tagged=true in the pool's URL")

// SendMessage is Send of a message with more than a body, and returns all of its
// reply.
func (c *Client) SendMessage(ctx context.Context, m Message) (Reply, error) {
	meta, err := c.meta(m)
	if err != nil {
		return Reply{}, err
	}
	reply, err := c.send(ctx, m.Body, meta)
	if err != nil {
		return Reply{}, err
	}
	said, _ := frame.ParseMeta(reply.Meta) // a worker may say what it likes: no type then
	return Reply{Body: reply.Body, Type: said.Type}, nil
}

// meta returns what goes with the body, or nothing.
func (c *Client) meta(m Message) ([]byte, error) {
	if m.ID == "" && m.Key == "" && len(m.Headers) == 0 {
		return nil, nil
	}
	if !c.tagged {
		return nil, ErrPlain
	}
	meta, err := json.Marshal(frame.Meta{ID: m.ID, Key: m.Key, Headers: m.Headers})
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return meta, nil
}

func (c *Client) send(ctx context.Context, body, meta []byte) (dial.Reply, error) {
	reply, err := c.pool.Send(ctx, body, meta)
	if err == nil {
		return reply, nil
	}
	var f *dial.Failure
	switch {
	case errors.As(err, &f):
		return dial.Reply{}, &Failure{Code: string(f.Code), Text: f.Text, After: f.After()}
	case err == dial.ErrClosed:
		return dial.Reply{}, ErrClosed
	}
	return dial.Reply{}, fmt.Errorf("client: %w", err)
}
