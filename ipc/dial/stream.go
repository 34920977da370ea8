package dial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// A Message is what a Stream sends. Number and Name are its sender's own: the
// Stream only hands them back.
type Message struct {
	Number int    // from 1
	Name   string // of its file, if it has one
	Body   []byte
}

// String names the message. The zero Message stands for any one of those sent.
func (m Message) String() string {
	switch {
	case m.Name != "":
		return m.Name
	case m.Number == 0:
		return "a message"
	}
	return fmt.Sprintf("message %d", m.Number)
}

// An Output is told what becomes of the messages. Sending, NotTaken and Lost are
// called by one goroutine, the other methods by another one at the same time.
type Output interface {
	// Sending is called for each message before it is written.
	Sending(m Message)
	// Reply is called for each reply, in their order, with its body.
	Reply(body []byte)
	// Failed is called for each answer that says that a message failed, but not
	// for a "stopping". m is the zero Message if it is not known which one it was.
	Failed(m Message, f *Failure)
	// Flush is called when no further reply has arrived.
	Flush()
	// NotTaken is called with messages that the Stream is going to send again.
	NotTaken(list []Message)
	// Lost is called for messages that get no reply, and are not sent again.
	Lost(l Loss)
}

// A Loss is a number of messages of which it is not known whether they were
// handled.
type Loss struct {
	Count       int
	First, Last Message // they are among these two and those between them

	// Err is why: ErrNoReply, ErrWhichTooBig, ErrStopping, io.EOF if the pool
	// closed the connection too early, or what broke it. With ErrNoReply the
	// message is one that was sent with Once, and the pool has read it.
	Err error

	Heard bool // the pool has answered before, on this connection or an earlier one
}

// The reasons of a Loss.
var (
	ErrWhichTooBig = errors.New("one of several messages was too big, and the pool dropped what follows it")
	ErrStopping    = errors.New("the server is stopping")
)

// The errors after which a Stream gives up.
var (
	ErrMute     = errors.New("the server does not answer every message")
	ErrSilent   = errors.New("nothing was heard within the timeout")
	ErrNotTaken = errors.New("the server accepts connections, but no messages")
)

// An Unsent is the error of Stream.Send: it has given up.
type Unsent struct {
	Err       error     // ErrMute, ErrSilent, ErrNotTaken, the context's, or the last one of Connect
	Connected bool      // there has been a connection
	Heard     bool      // the pool has answered something
	Messages  []Message // what was taken from the input and is not known to be handled
}

func (u *Unsent) Error() string { return u.Err.Error() }

// Unwrap returns the reason.
func (u *Unsent) Unwrap() error { return u.Err }

// A Stream says how messages are sent. Connect must be set.
//
// With Always or Once replies are counted. With Tagged they may come in any order,
// and are held until it is their turn: Output has them in the order of the messages. Without, a reply may be that of any
// message: a connection gets a limited number of messages, or those that come
// until the input is quiet for a second, and is then ended. Only its end tells
// that all were handled.
type Stream struct {
	Connect Connect

	Always   bool // the pool answers every message: reply=always in its URL
	Once     bool // the pool takes one message a connection: once=true in its URL
	Tagged   bool // the pool takes tagged frames: tagged=true in its URL; goes with Always
	InFlight int  // with Always: how many messages may be without a reply; at least 1

	// Timeout is how long nothing may be heard, before the Stream gives up; 0 is
	// for ever.
	Timeout time.Duration
	// ConnectTimeout is how long an attempt to connect may take, and how long
	// attempts without any progress go on after the first connection.
	ConnectTimeout time.Duration
}

// Send sends the messages from in, until it is closed, and returns when all were
// handled or reported to out. The error is an *Unsent; the rest of the input has
// not been read then.
func (s Stream) Send(ctx context.Context, in <-chan []Message, out Output) error {
	s.InFlight = max(1, s.InFlight)
	r := &run{Stream: s, ctx: ctx, in: in, out: out}
	for r.await(nil, nil, nil) {
		conn, err := r.connect()
		if err == nil {
			r.connected = true
			began := time.Now()
			e := newRound(r, conn).exchange()
			r.progress = r.progress.Add(time.Since(began)) // what the pool had in hand may take long
			err = r.concluded(e)
		}
		if err != nil {
			return &Unsent{Err: err, Connected: r.connected, Heard: r.heard, Messages: r.todo}
		}
	}
	if err := ctx.Err(); err != nil {
		return &Unsent{Err: err, Connected: r.connected, Heard: r.heard, Messages: r.todo}
	}
	return nil
}

// A run is one call of Send: one connection after the other.
type run struct {
	Stream
	ctx context.Context
	in  <-chan []Message
	out Output

	todo      []Message // taken from in, or to be sent again
	connected bool      // there has been a connection
	heard     bool      // something has come back
	mute      bool      // a pool has read all, and closed without a reply
	progress  time.Time // the last one
	pause     time.Duration
}

// counted reports whether it is known whose reply a frame is.
func (r *run) counted() bool { return r.Always || r.Once }

// await waits until there is something to send. It returns false at the end of
// the input, or when one of the others fires.
func (r *run) await(timeout <-chan time.Time, over, hush <-chan struct{}) bool {
	for len(r.todo) == 0 {
		var ok bool
		select {
		case r.todo, ok = <-r.in:
			if !ok {
				return false
			}
		case <-timeout:
			return false
		case <-over:
			return false
		case <-hush:
			return false
		case <-r.ctx.Done():
			return false
		}
	}
	return true
}

// connect connects. After the first connection it tries for ConnectTimeout from
// the last progress on: the pool may be about to be started again.
func (r *run) connect() (Conn, error) {
	first := !r.connected
	if first {
		r.progress = time.Now()
	}
	for {
		wait(r.ctx, r.pause)
		ctx, cancel := context.WithTimeout(r.ctx, r.ConnectTimeout)
		conn, err := r.Connect(ctx)
		cancel()
		if err == nil || first || r.isStuck() || r.ctx.Err() != nil {
			return conn, err
		}
		r.pause = longer(r.pause)
	}
}

// isStuck reports whether the last progress is too long ago.
func (r *run) isStuck() bool { return time.Since(r.progress) > r.ConnectTimeout }

// concluded decides what the end of a connection means. An error ends everything.
func (r *run) concluded(e ending) error {
	for _, l := range e.losses {
		r.out.Lost(l)
	}
	r.out.NotTaken(e.resend)
	r.todo = append(e.resend, r.todo...)
	r.heard = r.heard || e.replies > 0
	if len(e.resend) < e.sent {
		r.progress, r.pause = time.Now(), 0
	} else if e.sent > 0 {
		r.pause = longer(r.pause)
	}
	var f *Failure
	switch {
	case r.ctx.Err() != nil:
		return r.ctx.Err()
	case e.err == errPlain, errors.As(e.err, &f): // the next connection would be the same
		return e.err
	case errors.Is(e.err, os.ErrDeadlineExceeded):
		return ErrSilent
	case e.err == errTooMany, e.err == errGarbage:
		return e.err
	case e.clean && e.open > 0 && len(e.resend) > 0 && !r.heard:
		if r.mute {
			return ErrMute // all of it would be handled again and again
		}
		r.mute = true // it may have been killed, which looks the same
	case len(e.resend) > 0 && r.isStuck():
		return ErrNotTaken
	}
	return nil
}
