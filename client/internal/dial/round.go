package dial

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"sync"
	"time"

	"github.com/poolinit/poolinit/client/internal/frame"
)

// Where replies are not counted a connection gets this much and is then ended:
// only its end tells that all was handled, and until then all of it is kept.
const (
	roundMessages = 1 << 16
	roundBytes    = 16 << 20
)

// quiet is how long the input may be silent before the connection is ended: the
// pool might cut it off for being idle, and its messages are known to be handled.
const quiet = time.Second

// A round is what a Stream sends over one connection. One goroutine writes, one
// reads.
type round struct {
	run  *run
	conn Conn

	// The writer's.
	sent  int
	bytes int

	over chan struct{} // closed when the reader has ended
	hush chan struct{} // closed when the pool takes no more
	room chan struct{} // 1: there may be room for another message, and the writer may be busy still

	// The reader's.
	readErr error             // its last; set before over is closed
	early   map[uint64]answer // by tag, those whose turn has not come
	turn    uint64            // the tag of the next answer

	mu    sync.Mutex
	books ledger
}

func newRound(r *run, conn Conn) *round {
	return &round{run: r, conn: conn, books: ledger{counted: r.counted()}, turn: 1, early: make(map[uint64]answer),
		over: make(chan struct{}), hush: make(chan struct{}), room: make(chan struct{}, 1)} // 1: see there
}

// An ending is what is known at the end of a connection.
type ending struct {
	sent    int
	replies int
	open    int       // messages without a reply, or of which none is known
	resend  []Message // in their order
	losses  []Loss
	clean   bool  // the pool has read everything, and then closed
	err     error // why the reader ended
}

// exchange sends until there is nothing more, or the pool takes no more, and
// reads all replies.
func (r *round) exchange() ending {
	defer r.conn.Close()
	defer context.AfterFunc(r.run.ctx, func() { r.conn.Close() })()
	go r.read() // ends with the connection; over tells that
	finished := r.write() == nil && r.conn.CloseWrite() == nil
	<-r.over
	clean := finished && r.readErr == io.EOF && r.isTaken()
	return r.end(clean)
}

// end closes the books.
func (r *round) end(clean bool) ending {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := &r.books
	e := ending{sent: r.sent, replies: b.replies, open: len(b.pending), clean: clean, err: r.readErr}
	heard := r.run.heard || b.replies > 0
	var unknown int
	switch {
	case !b.counted:
		e.resend, unknown = b.uncounted(clean)
	case clean && r.run.Once: // no reply is not a failure, unless every message has one
		e.resend = b.stopped
		if r.run.Always {
			for _, m := range b.pending {
				e.losses = append(e.losses, Loss{Count: 1, First: m, Last: m, Err: ErrNoReply, Heard: heard})
			}
		}
	default:
		e.resend = append(b.stopped, b.pending...)
	}
	if unknown > 0 {
		first, last, err := b.doubt(r.readErr)
		e.losses = append(e.losses, Loss{Count: unknown, First: first, Last: last, Err: err, Heard: heard})
	}
	return e
}

// isTaken reports whether the pool had read all when it closed. If it closes
// earlier that breaks the connection, but its end may be read before the reset
// comes.
func (r *round) isTaken() bool {
	_, secure := r.conn.(*tls.Conn)
	switch {
	case !r.run.Once:
		return unacknowledged(r.conn) == 0
	case secure:
		return true // it has shaken hands, and need not wait for our close_notify
	default:
		return unacknowledged(r.conn) <= 1 // the end of our side, for which it need not wait either
	}
}

// write sends messages. An error means that the connection takes no more bytes.
func (r *round) write() error {
	w := bufio.NewWriterSize(r.conn, bufferSize)
	if r.run.Tagged {
		if _, err := w.Write(frame.AppendControl(nil, frame.Control{Hello: version})); err != nil {
			return err
		}
	}
	for {
		if r.run.Once && r.sent > 0 {
			return r.flush(w)
		}
		if len(r.run.todo) == 0 {
			if err := r.flush(w); err != nil {
				return err
			}
			if !r.run.await(time.After(quiet), r.over, r.hush) {
				return nil
			}
		}
		ok, err := r.admit(w)
		if err != nil {
			return err
		}
		if !ok {
			return r.flush(w)
		}
		if err := r.put(w); err != nil {
			return err
		}
	}
}

// admit waits until another message may go. It returns false if none may, ever.
func (r *round) admit(w *bufio.Writer) (bool, error) {
	if !r.books.counted && (r.sent >= roundMessages || r.bytes >= roundBytes) {
		return false, nil
	}
	for r.books.counted && r.inFlight() >= r.run.InFlight {
		if err := r.flush(w); err != nil {
			return false, err
		}
		select {
		case <-r.room:
		case <-r.over:
			return false, nil
		}
	}
	return !isClosed(r.over) && !isClosed(r.hush), nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (r *round) inFlight() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.books.pending)
}

// put writes the next message.
func (r *round) put(w *bufio.Writer) error {
	m := r.run.todo[0]
	r.run.todo = r.run.todo[1:]
	r.sent++
	r.bytes += len(m.Body)
	r.run.out.Sending(m)
	r.mu.Lock()
	r.books.pending = append(r.books.pending, m)
	r.mu.Unlock()
	header := frame.AppendHeader(w.AvailableBuffer(), len(m.Body))
	if r.run.Tagged {
		header = frame.AppendTaggedHeader(w.AvailableBuffer(), uint64(r.sent), false, nil, len(m.Body))
	}
	if _, err := w.Write(header); err != nil {
		return err
	}
	_, err := w.Write(m.Body)
	return err
}

func (r *round) flush(w *bufio.Writer) error {
	r.renewDeadline()
	return w.Flush()
}

// renewDeadline starts the timeout anew.
func (r *round) renewDeadline() {
	if d := r.run.Timeout; d > 0 {
		_ = r.conn.SetReadDeadline(time.Now().Add(d)) // fails if it is closed, which the reader finds out
	}
}

// read reads replies until there are no more. Then it ends the writing: the
// writer may be stuck in it. It does not close the connection, because exchange
// asks it what the pool has read.
func (r *round) read() {
	defer close(r.over)
	defer func() { _ = r.conn.SetWriteDeadline(time.Unix(1, 0)) }()
	in := bufio.NewReaderSize(r.conn, bufferSize)
	if r.run.Tagged {
		if r.readErr = isGreeted(in); r.readErr != nil {
			return
		}
		defer r.passTurns()
	}
	for {
		if in.Buffered() < frame.HeaderSize {
			r.run.out.Flush()
		}
		err := r.readOne(in)
		if err != nil {
			r.readErr = err
			return
		}
		r.renewDeadline()
	}
}

// readOne reads a reply, and deals with it.
func (r *round) readOne(in *bufio.Reader) error {
	if r.run.Tagged {
		return r.readTagged(in)
	}
	body, failed, err := readReply(in)
	if err != nil {
		return err
	}
	return r.receive(body, failed)
}

// An answer is a tagged reply whose turn has not come.
type answer struct {
	body   []byte
	failed bool
}

// readTagged reads a tagged reply, and deals with those whose turn it is then.
func (r *round) readTagged(in *bufio.Reader) error {
	t, err := readTagged(in)
	switch _, isThere := r.early[t.Tag]; {
	case err != nil:
		return err
	case t.Tag == 0 && t.Failed:
		return parseFailure(t.Body)
	case t.Tag == 0:
		return nil
	case isThere || t.Tag < r.turn || t.Tag >= r.turn+uint64(r.inFlight()):
		return errGarbage
	}
	r.early[t.Tag] = answer{t.Body, t.Failed}
	for err == nil {
		a, isThere := r.early[r.turn]
		if !isThere {
			return nil
		}
		delete(r.early, r.turn)
		r.turn++
		err = r.receive(a.body, a.failed)
	}
	return err
}

// passTurns deals with the answers that are left when no more come: those whose
// turn it would be have none.
func (r *round) passTurns() {
	r.mu.Lock()
	var answered, open []Message
	var answers []answer
	for i, m := range r.books.pending {
		if a, isThere := r.early[r.turn+uint64(i)]; isThere {
			answered, answers = append(answered, m), append(answers, a)
		} else {
			open = append(open, m)
		}
	}
	r.books.pending = append(answered, open...)
	r.mu.Unlock()
	for _, a := range answers {
		if r.receive(a.body, a.failed) != nil {
			return
		}
	}
	r.run.out.Flush()
}

// receive deals with one frame.
func (r *round) receive(body []byte, failed bool) error {
	var f *Failure
	var code frame.Code
	if failed {
		f = parseFailure(body)
		code = f.Code
	}
	r.mu.Lock()
	m, err := r.books.record(code)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if code == frame.Stopping || code == frame.TooBig {
		r.quiesce()
	}
	switch {
	case !failed:
		r.run.out.Reply(body)
	case code != frame.Stopping:
		r.run.out.Failed(m, f)
	}
	select {
	case r.room <- struct{}{}:
	default:
	}
	return nil
}

// quiesce lets the writer send no more: the pool would not take it. Only the
// reader calls it.
func (r *round) quiesce() {
	if !isClosed(r.hush) {
		close(r.hush)
	}
}
