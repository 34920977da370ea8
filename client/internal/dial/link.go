package dial

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/poolinit/poolinit/client/internal/frame"
)

// maxWaiting is how many bytes may wait to be written before the next message
// has to wait itself.
const maxWaiting = 1 << 20

// A link is a Client's connection. One goroutine reads, one writes.
type link struct {
	conn    net.Conn
	timeout time.Duration
	wake    chan struct{} // 1: frames are waiting, and the writer may be busy still
	over    chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	waiting []byte        // frames to be written
	room    chan struct{} // closed when they have been taken, or the link has retired
	pending []*call       // sent or waiting, without a reply; with tags those are in open
	retired bool          // it takes no more messages

	// Messages that wait to be written, that have been given to the writer, of those
	// the ones before the last read returned, and those that have a reply.
	added, asked, seen, answered uint64

	open    map[uint64]*call // by tag; nil: the pool answers in the order of the messages
	lastTag uint64
}

// A call is a message that waits for its reply.
type call struct {
	done  chan struct{} // closed when the rest is set
	reply Reply
	err   error
}

func newLink(conn net.Conn, timeout time.Duration, tagged bool) *link {
	l := &link{conn: conn, timeout: timeout, wake: make(chan struct{}, 1), // 1: see there
		over: make(chan struct{}), room: make(chan struct{})}
	if tagged {
		l.open = make(map[uint64]*call)
		l.waiting = frame.AppendControl(nil, frame.Control{Hello: version})
	}
	return l
}

// run reads and writes until the connection ends, or life is done.
func (l *link) run(life context.Context) {
	defer context.AfterFunc(life, func() { l.conn.Close() })()
	written := make(chan struct{})
	go func() { // ends after over is closed; run waits for it
		defer close(written)
		l.write()
	}()
	var err error
	if l.open != nil {
		err = l.readTagged()
	} else {
		err = l.read()
	}
	var f *Failure
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && l.open != nil:
		err = fmt.Errorf("nothing was heard within %v: %w", l.timeout, os.ErrDeadlineExceeded)
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("nothing was heard within %v (only a pool with reply=always in its URL answers every message): %w",
			l.timeout, os.ErrDeadlineExceeded)
	case err == errGarbage, err == errPlain, errors.As(err, &f): // the message sent again would get the same
	case err == io.EOF:
		err = retryable{ErrNoReply, true}
	default:
		err = retryable{err, true}
	}
	l.fail(err)
	<-written
}

// fail closes the connection, and gives messages without a reply this error.
func (l *link) fail(err error) {
	l.conn.Close()
	close(l.over)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retire()
	for _, c := range l.pending {
		c.err = err
		close(c.done)
	}
	l.pending = nil
	for tag, c := range l.open {
		c.err = err
		close(c.done)
		delete(l.open, tag)
	}
}

// due is how many messages have no reply. mu is held.
func (l *link) due() int { return len(l.pending) + len(l.open) }

// retire lets the link take no more messages. mu is held.
func (l *link) retire() {
	if !l.retired {
		l.retired = true
		close(l.room)
	}
}

func (l *link) isRetired() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.retired
}

// send hands a message to the writer. It waits while too much is waiting.
func (l *link) send(ctx context.Context, body, meta []byte) (*call, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.retired && len(l.waiting) >= maxWaiting {
		room := l.room
		l.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
		}
		l.mu.Lock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	if l.retired {
		return nil, errRetired
	}
	c := &call{done: make(chan struct{})}
	if l.open != nil {
		l.lastTag++
		l.open[l.lastTag] = c
		l.waiting = frame.AppendTagged(l.waiting, frame.Tagged{Tag: l.lastTag, Meta: meta, Body: body})
	} else {
		l.pending = append(l.pending, c)
		l.added++
		l.waiting = frame.Append(l.waiting, body)
	}
	if l.due() == 1 {
		l.renewDeadline()
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return c, nil
}

// write writes what is waiting. It does not report an error: what the server has
// said before counts, and the reader finds that.
func (l *link) write() {
	var frames []byte
	for {
		select {
		case <-l.wake:
		case <-l.over:
			return
		}
		frames = l.swap(frames)
		if _, err := l.conn.Write(frames); err != nil {
			l.mu.Lock()
			l.retire()
			l.mu.Unlock()
			return
		}
	}
}

// swap returns what is waiting, in exchange for a buffer that is free.
func (l *link) swap(free []byte) []byte {
	if cap(free) > maxWaiting {
		free = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked += l.added
	l.added = 0
	frames := l.waiting
	l.waiting = free[:0]
	if !l.retired {
		close(l.room)
		l.room = make(chan struct{})
	}
	return frames
}

// renewDeadline starts the timeout anew; while no reply is due there is none. mu
// is held.
func (l *link) renewDeadline() {
	var limit time.Time
	if l.timeout > 0 && l.due() > 0 {
		limit = time.Now().Add(l.timeout)
	}
	_ = l.conn.SetReadDeadline(limit) // fails if it is closed, which the reader finds out
}

// An eager is a link's input: before each read the timeout starts anew, and after
// it only what was asked until then can have been answered.
type eager struct{ *link }

func (e eager) Read(b []byte) (int, error) {
	e.mu.Lock()
	e.renewDeadline()
	e.mu.Unlock()
	n, err := e.conn.Read(b)
	e.mu.Lock()
	e.seen = e.asked
	e.mu.Unlock()
	return n, err
}

// read reads replies to the end of the connection, whose reason it returns.
func (l *link) read() error {
	in := bufio.NewReaderSize(eager{l}, bufferSize)
	for {
		body, failed, err := readReply(in)
		if err == nil {
			err = l.assign(body, failed)
		}
		if err != nil {
			return err
		}
	}
}

// assign gives a reply to the oldest message. An error is the end of the
// connection.
func (l *link) assign(body []byte, failed bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.answered == l.seen {
		return errTooMany // not the reply to a message that was sent since it came
	}
	l.answered++
	c := l.pending[0]
	l.pending[0], l.pending = nil, l.pending[1:]
	return l.finish(c, Reply{Body: body}, failed)
}

// finish gives a message its reply. An error is the end of the connection. mu is
// held.
func (l *link) finish(c *call, reply Reply, failed bool) error {
	defer close(c.done)
	if failed {
		f := parseFailure(reply.Body)
		c.err = f
		switch f.Code {
		case frame.Stopping:
			c.err = retryable{err: f}
			l.retire() // no later one is taken
		case frame.TooBig:
			l.retire() // what was written after it is dropped
			return io.EOF
		}
	} else {
		c.reply = reply
	}
	if l.retired && l.due() == 0 {
		return io.EOF // nothing is due, and nothing will be
	}
	return nil
}
