package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/poolinit/poolinit/ipc"
)

// Without --reply a connection gets so much and is then ended: only the end
// of the replies tells that all of it was handled, and until then it is kept.
const (
	roundMessages = 1 << 16
	roundBytes    = 16 << 20
)

// quiet is how long the input may be silent before the connection is ended:
// then nobody cuts it off for being idle, and its messages are known to be handled.
const quiet = time.Second

// A round is what is sent over one connection. One goroutine writes, one reads.
type round struct {
	s       *sender
	conn    halfConn
	counted bool // it is known whose reply a frame is

	// The writer's.
	sent     int
	bytes    int
	finished bool // the end of what is sent has been said

	over chan struct{} // closed when the reader has ended
	hush chan struct{} // closed when the server takes no more
	room chan struct{} // 1: there may be room again

	mu      sync.Mutex
	pending []parcel // sent; if counted, without those that were answered
	stopped []parcel // answered "stopping"; only if counted
	stops   int
	frames  int
	err     error // the reader's
}

func newRound(s *sender, conn halfConn) *round {
	return &round{s: s, conn: conn, counted: s.o.reply || s.o.once,
		over: make(chan struct{}), hush: make(chan struct{}), room: make(chan struct{}, 1)}
}

// run sends until there is nothing more, or the server takes no more, and
// reads all replies.
func (r *round) run() {
	var reader sync.WaitGroup
	reader.Go(r.read)
	if r.write() == nil && r.conn.CloseWrite() == nil {
		r.mu.Lock()
		r.finished = true
		r.mu.Unlock()
	}
	reader.Wait()
}

func (r *round) write() error {
	w := bufio.NewWriterSize(r.conn, 64<<10)
	for {
		if len(r.s.todo) == 0 {
			if err := r.flush(w); err != nil {
				return err
			}
			if !r.s.await(time.After(quiet), r.over, r.hush) {
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
		p := r.s.todo[0]
		r.s.todo = r.s.todo[1:]
		r.take(p)
		if err := writeParcel(w, p); err != nil {
			return err
		}
	}
}

// admit waits until another message may go. It returns false if none may, ever.
func (r *round) admit(w *bufio.Writer) (bool, error) {
	o := r.s.o
	switch {
	case o.once && r.sent > 0, !r.counted && (r.sent >= roundMessages || r.bytes >= roundBytes):
		return false, nil
	}
	for r.counted && r.inFlight() >= o.inFlight {
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
	return len(r.pending)
}

func (r *round) take(p parcel) {
	r.sent++
	r.bytes += len(p.body)
	r.s.out.sending(p)
	r.mu.Lock()
	r.pending = append(r.pending, p)
	r.mu.Unlock()
}

func (r *round) flush(w *bufio.Writer) error {
	r.patience()
	return w.Flush()
}

// patience begins --timeout again.
func (r *round) patience() {
	if d := r.s.o.timeout; d > 0 {
		_ = r.conn.SetReadDeadline(time.Now().Add(d)) // closed: the reader knows
	}
}

func writeParcel(w *bufio.Writer, p parcel) error {
	var header [ipc.HeaderSize]byte
	binary.BigEndian.PutUint32(header[:], uint32(len(p.body)))
	if _, err := w.Write(header[:]); err != nil {
		return err
	}
	_, err := w.Write(p.body)
	return err
}

// read takes replies until there are no more. Then it closes the connection,
// for the writer may be stuck in it.
func (r *round) read() {
	defer close(r.over)
	defer r.conn.Close()
	b := bufio.NewReaderSize(r.conn, 64<<10)
	for {
		if b.Buffered() < ipc.HeaderSize {
			_ = r.s.out.flush() // what cannot be written is told at the end
		}
		body, failed, err := readReply(b)
		if err == nil {
			err = r.took(body, failed)
		}
		if err != nil {
			r.mu.Lock()
			r.err = err
			r.mu.Unlock()
			return
		}
		r.patience()
	}
}

// readReply reads a frame.
func readReply(b *bufio.Reader) (body []byte, failed bool, err error) {
	var header [ipc.HeaderSize]byte
	if _, err := io.ReadFull(b, header[:]); err != nil {
		return nil, false, err
	}
	n := binary.BigEndian.Uint32(header[:])
	failed, n = n&(1<<31) != 0, n&^(1<<31)
	if n > ipc.MaxReply {
		return nil, false, errGarbage
	}
	body = make([]byte, n)
	if _, err = io.ReadFull(b, body); err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return body, failed, err
}

var (
	errGarbage = errors.New("what the server sends is no reply of a pool")
	errTooMany = errors.New("the server sends more replies than there were messages")
)

// took deals with one frame.
func (r *round) took(body []byte, failed bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frames++
	if r.frames > r.sentSoFar() {
		return errTooMany
	}
	var p parcel
	who := "a message"
	if len(r.pending) == 1 || r.counted {
		who = r.pending[0].String()
	}
	if r.counted {
		p, r.pending[0] = r.pending[0], parcel{}
		r.pending = r.pending[1:]
	}
	switch code, text := ipc.ParseFailure(body); {
	case !failed:
		r.s.out.reply(body)
	case code == ipc.Stopping:
		r.stop(p)
	default:
		r.s.out.failure(who, code, text)
	}
	select {
	case r.room <- struct{}{}:
	default:
	}
	return nil
}

// sentSoFar is what replies can have come for.
func (r *round) sentSoFar() int {
	if r.counted {
		return r.frames - 1 + len(r.pending)
	}
	return len(r.pending)
}

func (r *round) stop(p parcel) {
	if r.counted {
		r.stopped = append(r.stopped, p)
	}
	if r.stops++; r.stops == 1 {
		close(r.hush)
	}
}

// clean reports whether the server has closed after dealing with everything.
func (r *round) clean() bool { return r.finished && r.err == io.EOF }

// leftover returns what is to be sent again, and how many messages nothing is
// known of.
func (r *round) leftover() (again []parcel, unknown int) {
	o := r.s.o
	switch {
	case !r.counted:
		// Whatever is answered "stopping" comes last on a connection. But a server that
		// stops may also have run out of time to answer.
		first := len(r.pending) - r.stops
		if !r.clean() || r.stops > 0 {
			unknown = len(r.pending) - r.frames
		}
		return r.pending[first:], unknown
	case r.clean() && !o.reply:
		return r.stopped, 0 // once: no reply is no failure
	case r.clean() && o.once:
		for _, p := range r.pending {
			r.s.out.failure(p.String(), "", "the server closed the connection without a reply")
		}
		return r.stopped, 0
	}
	return append(r.stopped, r.pending...), 0
}
