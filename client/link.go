package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	headerSize = 4
	failedBit  = 1 << 31
	maxMessage = failedBit - 1
	maxReply   = 64 << 20 // what poolinit takes from a worker

	// maxWaiting is from how many bytes on that are to be written a message waits.
	maxWaiting = 1 << 20
)

var (
	errGarbage = errors.New("what the server sends is no reply of a pool")
	errEnded   = errors.New("the pool closed the connection without a reply")
	errGone    = again{err: errors.New("the pool closed the connection")}
)

// A link is a connection. One goroutine reads, one writes.
type link struct {
	conn    net.Conn
	timeout time.Duration
	wake    chan struct{} // 1: there is something to be written
	over    chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	waiting []byte        // frames, to be written
	room    chan struct{} // closed when they have been taken, or none are any more
	pending []*message    // sent, or waiting
	retired bool          // it takes no more
}

// A message is one that waits for its reply.
type message struct {
	done  chan struct{} // closed when the rest is there
	reply []byte
	err   error
}

func newLink(conn net.Conn, timeout time.Duration) *link {
	return &link{conn: conn, timeout: timeout, wake: make(chan struct{}, 1), // 1: to be found by the writer later
		over: make(chan struct{}), room: make(chan struct{})}
}

// run reads and writes until the connection ends, or life is over.
func (l *link) run(life context.Context) {
	defer context.AfterFunc(life, func() { l.conn.Close() })()
	var writer sync.WaitGroup
	writer.Go(l.write)
	err := l.read()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("nothing was heard within %v (only a pool with reply=always in its URL answers every message): %w",
			l.timeout, os.ErrDeadlineExceeded)
	case err == errGarbage: // sent again it would be followed by the same
	case err == io.EOF:
		err = again{errEnded, true}
	default:
		err = again{err, true}
	}
	l.ended(err)
	writer.Wait()
}

// ended gives what has no reply this error.
func (l *link) ended(err error) {
	l.conn.Close()
	close(l.over)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retire()
	for _, m := range l.pending {
		m.err = err
		close(m.done)
	}
	l.pending = nil
}

// retire: mu is held.
func (l *link) retire() {
	if !l.retired {
		l.retired = true
		close(l.room)
	}
}

func (l *link) takes() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.retired
}

// send sees to it that a message is written.
func (l *link) send(ctx context.Context, body []byte) (*message, error) {
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
		return nil, errGone
	}
	m := &message{done: make(chan struct{})}
	l.pending = append(l.pending, m)
	if len(l.pending) == 1 {
		l.patience()
	}
	l.waiting = append(binary.BigEndian.AppendUint32(l.waiting, uint32(len(body))), body...)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return m, nil
}

// write writes what waits. Why it cannot the reader will know: what the server
// has said before comes first.
func (l *link) write() {
	var frames []byte
	for {
		select {
		case <-l.wake:
		case <-l.over:
			return
		}
		frames = l.take(frames)
		if _, err := l.conn.Write(frames); err != nil {
			l.mu.Lock()
			l.retire()
			l.mu.Unlock()
			return
		}
	}
}

// take returns what waits, in exchange for a buffer that is free.
func (l *link) take(free []byte) []byte {
	if cap(free) > maxWaiting {
		free = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	frames := l.waiting
	l.waiting = free[:0]
	if !l.retired {
		close(l.room)
		l.room = make(chan struct{})
	}
	return frames
}

// patience begins the timeout again; while nothing is owed there is none. mu is
// held.
func (l *link) patience() {
	var limit time.Time
	if l.timeout > 0 && len(l.pending) > 0 {
		limit = time.Now().Add(l.timeout)
	}
	_ = l.conn.SetReadDeadline(limit) // closed: the reader knows
}

// patient is a connection's input, where each read has the timeout anew.
type patient struct{ *link }

func (p patient) Read(b []byte) (int, error) {
	p.mu.Lock()
	p.patience()
	p.mu.Unlock()
	return p.conn.Read(b)
}

// read takes replies until there are no more. What is pending then has none.
func (l *link) read() error {
	in := bufio.NewReaderSize(patient{l}, 64<<10)
	for {
		body, failed, err := readFrame(in)
		if err == nil {
			err = l.took(body, failed)
		}
		if err != nil {
			return err
		}
	}
}

func readFrame(in io.Reader) (body []byte, failed bool, err error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(in, header[:]); err != nil {
		return nil, false, err
	}
	size := binary.BigEndian.Uint32(header[:])
	failed, size = size&failedBit != 0, size&^failedBit
	if size > maxReply {
		return nil, false, errGarbage
	}
	body = make([]byte, size)
	if _, err = io.ReadFull(in, body); err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return body, failed, err
}

// took gives a reply to the oldest message. Its error is the connection's end.
func (l *link) took(body []byte, failed bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) == 0 {
		return errGarbage
	}
	m := l.pending[0]
	l.pending[0], l.pending = nil, l.pending[1:]
	defer close(m.done)
	if !failed {
		m.reply = body
		return l.drained()
	}
	code, text, _ := strings.Cut(string(body), ": ")
	f := &Failure{code, text}
	m.err = f
	switch code {
	case "stopping":
		m.err = again{err: f}
		l.retire() // only more of them follow
	case "too-big":
		l.retire() // what was written after it is dropped
		return io.EOF
	}
	return l.drained()
}

// drained returns the end of a connection that takes no more messages, and is
// owed no more replies.
func (l *link) drained() error {
	if l.retired && len(l.pending) == 0 {
		return io.EOF
	}
	return nil
}
