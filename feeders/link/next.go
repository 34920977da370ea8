package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/poolinit/poolinit/feeders/internal/frame"
)

// A Batch is everything that had arrived at a call of Next. Its memory is used again
// by the next call with the same Batch, and not before: two of them may take turns.
type Batch struct {
	Answers []Answer
	Credit  int  // the last credit that came; -1: none
	Stats   bool // the counters are asked for
	Drain   bool // take no more

	buf []byte
}

// firstBuffer is the room for a batch, in bytes.
const firstBuffer = 64 << 10

// Next waits until something has arrived, and takes all of it. The error is io.EOF
// when poolinit has closed the link. What came before an error is in the batch.
func (l *Link) Next(b *Batch) error {
	b.reset(l.rest)
	l.rest = l.rest[:0]
	for {
		size, err := l.cut(b)
		if err != nil || !b.empty() {
			return err
		}
		if err := b.read(l.conn, size); err != nil {
			return err
		}
	}
}

// cut takes all whole frames out of what has been read, and keeps the rest for the
// next batch. Without a whole frame it returns how much the first one needs.
func (l *Link) cut(b *Batch) (need int, err error) {
	from := 0
	for {
		t, size, ok, err := frame.CutTagged(b.buf[from:], frame.MaxReply)
		switch {
		case err != nil:
			return 0, fmt.Errorf("poolinit sent what is not a frame: %w", err)
		case !ok && from == 0:
			return size, nil
		case !ok && b.empty(): // control frames without a known member
			b.buf = append(b.buf[:0], b.buf[from:]...)
			return size, nil
		case !ok:
			l.rest = append(l.rest, b.buf[from:]...)
			return 0, nil
		}
		from += size
		if t.Tag != 0 {
			b.Answers = append(b.Answers, Answer(t))
		} else if err := b.control(t.Body); err != nil {
			return 0, err
		}
	}
}

func (b *Batch) reset(rest []byte) {
	if cap(b.buf) < firstBuffer || cap(b.buf) > keepBuffer {
		b.buf = make([]byte, 0, max(firstBuffer, len(rest)))
	}
	b.buf = append(b.buf[:0], rest...)
	clear(b.Answers) // they hold on to the memory of large replies
	b.Answers, b.Credit, b.Stats, b.Drain = b.Answers[:0], -1, false, false
}

func (b *Batch) empty() bool {
	return len(b.Answers) == 0 && b.Credit < 0 && !b.Stats && !b.Drain
}

// read reads once. need is a hint: an announced size makes no more room than has
// arrived, twice.
func (b *Batch) read(r io.Reader, need int) error {
	if len(b.buf) == cap(b.buf) {
		b.buf = append(make([]byte, 0, max(min(need, 2*cap(b.buf)), 2*len(b.buf))), b.buf...)
	}
	n, err := r.Read(b.buf[len(b.buf):cap(b.buf)])
	b.buf = b.buf[:len(b.buf)+n]
	switch {
	case n > 0:
		return nil // the next read returns the error that came with it
	case err == io.EOF && len(b.buf) > 0:
		return io.ErrUnexpectedEOF
	case err == nil:
		return nil
	}
	return err
}

// errControl is the error of a control frame that makes no sense.
var errControl = errors.New("poolinit sent a control frame that is not understood")

// control notes what a control frame says. What is not known is passed over.
func (b *Batch) control(body []byte) error {
	var c struct {
		Credit *int `json:"credit"`
		Stats  bool `json:"stats"`
		Drain  bool `json:"drain"`
		Hello  int  `json:"hello"`
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return fmt.Errorf("%w: %w", errControl, err)
	}
	if c.Credit != nil && c.Hello == 0 {
		b.Credit = max(*c.Credit, 0)
	}
	b.Stats, b.Drain = b.Stats || c.Stats, b.Drain || c.Drain
	return nil
}
