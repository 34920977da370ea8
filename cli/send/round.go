package send

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
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
	sent  int
	bytes int

	finished bool // all of it was written, and its end said
	taken    bool // and the server had read all when it closed

	over chan struct{} // closed when the reader has ended
	hush chan struct{} // closed when the server takes no more
	room chan struct{} // 1: there may be room again

	mu      sync.Mutex
	pending []parcel // sent; if counted, without those that were answered
	stopped []parcel // answered "stopping"; only if counted
	stops   int
	frames  int
	big     *overflow // a message was too big
	err     error     // the reader's
}

func newRound(s *sender, conn halfConn) *round {
	return &round{s: s, conn: conn, counted: s.o.reply || s.o.once,
		over: make(chan struct{}), hush: make(chan struct{}), room: make(chan struct{}, 1)}
}

// run sends until there is nothing more, or the server takes no more, and
// reads all replies.
func (r *round) run() {
	defer r.conn.Close()
	var reader sync.WaitGroup
	reader.Go(r.read)
	r.finished = r.write() == nil && r.conn.CloseWrite() == nil
	reader.Wait()
	r.taken = r.finished && r.err == io.EOF && r.isTaken()
}

func (r *round) write() error {
	w := bufio.NewWriterSize(r.conn, 64<<10)
	for {
		if r.s.o.once && r.sent > 0 {
			return r.flush(w)
		}
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
	if !r.counted && (r.sent >= roundMessages || r.bytes >= roundBytes) {
		return false, nil
	}
	for r.counted && r.inFlight() >= r.s.o.inFlight {
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
	var header [frame.HeaderSize]byte
	binary.BigEndian.PutUint32(header[:], uint32(len(p.body)))
	if _, err := w.Write(header[:]); err != nil {
		return err
	}
	_, err := w.Write(p.body)
	return err
}

// read takes replies until there are no more. Then it ends the writing, for the
// writer may be stuck in it. It does not close: run still has to look.
func (r *round) read() {
	defer close(r.over)
	defer func() { _ = r.conn.SetWriteDeadline(time.Unix(1, 0)) }()
	b := bufio.NewReaderSize(r.conn, 64<<10)
	for {
		if b.Buffered() < frame.HeaderSize {
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
	var header [frame.HeaderSize]byte
	if _, err := io.ReadFull(b, header[:]); err != nil {
		return nil, false, err
	}
	n := binary.BigEndian.Uint32(header[:])
	failed, n = n&(1<<31) != 0, n&^(1<<31)
	if n > frame.MaxReply {
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
	switch {
	case r.big != nil:
		return errGarbage // a message that is too big is a connection's last
	case r.frames > r.sentSoFar():
		return errTooMany
	}
	var code frame.Code
	var text string
	if failed {
		code, text = frame.ParseFailure(body)
	}
	if code == frame.TooBig {
		r.overflowed()
	}
	switch p, who := r.whose(); {
	case !failed:
		r.s.out.reply(body)
	case code == frame.Stopping:
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

// whose returns the message that the frame is for, if that is known, and what to
// call it.
func (r *round) whose() (p parcel, who string) {
	switch {
	case r.counted:
		p, r.pending[0] = r.pending[0], parcel{}
		r.pending = r.pending[1:]
		return p, p.String()
	case r.big != nil && r.big.sure:
		return parcel{}, r.pending[r.big.at].String()
	case len(r.pending) == 1:
		return parcel{}, r.pending[0].String()
	}
	return parcel{}, "a message"
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
	r.stops++
	r.quiesce()
}

// quiesce has the writer send no more: the server would not take it.
func (r *round) quiesce() {
	if !isClosed(r.hush) {
		close(r.hush)
	}
}
