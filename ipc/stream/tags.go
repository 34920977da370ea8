package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
)

// protocolVersion is that of tagged frames.
const protocolVersion = 1

// maxHello is the longest body of a client's first frame, in bytes. What begins
// with a longer one is no hello, but HTTP, say.
const maxHello = 1 << 10

// tags are the messages of a connection with tagged=true: which of them are not
// answered. A connection without any holds no memory for that.
type tags struct {
	greeted bool // the reader's own: the hello has come

	// With the connection's mutex held, as all methods.
	open *tagSet // nil: none is
	last []byte  // what is said after all answers; nil: nothing
}

// add opens a tag, unless it is open.
func (t *tags) add(tag uint64) (ok bool) {
	if t.open == nil {
		t.open = tagSets.Get().(*tagSet)
	}
	return t.open.add(tag)
}

// isOpen reports whether a message with the tag is not answered.
func (t *tags) isOpen(tag uint64) bool { return t.open != nil && t.open.has(tag) }

// remove closes a tag, and returns what is to be said now that all are closed.
func (t *tags) remove(tag uint64) (last []byte) {
	if t.open.remove(tag); t.open.n > 0 {
		return nil
	}
	if len(t.open.table) <= maxTagsKept {
		tagSets.Put(t.open)
	}
	last, t.open, t.last = t.last, nil, nil
	return last
}

// due is how many answers are to come.
func (t *tags) due() int {
	n := 0
	if t.open != nil {
		n = t.open.n
	}
	if t.last != nil {
		n++
	}
	return n
}

// tagSets has empty sets, with tables of up to maxTagsKept places.
var tagSets = sync.Pool{New: func() any { return newTagSet(minTags) }}

const (
	minTags     = 64
	maxTagsKept = 8192
)

// A tagSet is a set of tags, which are not 0. A client cannot know which of them
// meet in its table.
type tagSet struct {
	table []uint64 // a power of two of places, half of them free at least: 0
	shift uint     // of a tag's product, so that a place is left
	n     int
}

func newTagSet(places int) *tagSet {
	return &tagSet{table: make([]uint64, places), shift: uint(64 - bits.TrailingZeros(uint(places)))}
}

// secret is what a tag is multiplied with.
var secret = rand.Uint64() | 1

// place is where a tag should be.
func (s *tagSet) place(tag uint64) int { return int(tag * secret >> s.shift) }

// find returns where a tag is, or the free place that it would get.
func (s *tagSet) find(tag uint64) int {
	i := s.place(tag)
	for s.table[i] != 0 && s.table[i] != tag {
		i = (i + 1) & (len(s.table) - 1)
	}
	return i
}

func (s *tagSet) has(tag uint64) bool { return s.table[s.find(tag)] == tag }

// add adds a tag, unless it is there.
func (s *tagSet) add(tag uint64) (ok bool) {
	i := s.find(tag)
	if s.table[i] == tag {
		return false
	}
	s.table[i] = tag
	if s.n++; 2*s.n > len(s.table) {
		s.grow()
	}
	return true
}

func (s *tagSet) grow() {
	to := newTagSet(2 * len(s.table))
	for _, tag := range s.table {
		if tag != 0 {
			to.table[to.find(tag)] = tag
		}
	}
	s.table, s.shift = to.table, to.shift
}

// remove removes a tag that is there. Those behind it move up, so that find never
// passes a gap.
func (s *tagSet) remove(tag uint64) {
	gap, mask := s.find(tag), len(s.table)-1
	s.n--
	for i := (gap + 1) & mask; s.table[i] != 0; i = (i + 1) & mask {
		if (i-s.place(s.table[i]))&mask >= (i-gap)&mask {
			s.table[gap], gap = s.table[i], i
		}
	}
	s.table[gap] = 0
}

// A tagFault is why the client of a connection with tagged=true is not served any
// more. It is answered with a failure.
type tagFault struct {
	code    frame.Code
	tag     uint64
	isPlain bool // the client may not know tagged frames: the failure is a plain one
	text    string
	cause   error
}

func (f *tagFault) Error() string { return string(f.code) + ": " + f.text }

// Unwrap returns what says how the fault is counted.
func (f *tagFault) Unwrap() error { return f.cause }

func (f *tagFault) frame() []byte {
	if f.isPlain {
		return frame.AppendFailure(nil, f.code, f.text)
	}
	return frame.AppendTaggedFailure(nil, f.tag, f.code, f.text)
}

// takeTagged is takeFrames with tags.
func (c *conn) takeTagged() error {
	var batch [batchSize]*ipc.Delivery
	for {
		n, err := c.collectTagged(batch[:])
		if n > 0 {
			c.submitExpected(batch[:n])
		}
		if err != nil {
			return err
		}
		if n == 0 {
			c.awaitReader() // of what was answered at once
			return nil
		}
	}
}

// collectTagged makes messages of whole tagged frames. What can be answered at
// once is.
func (c *conn) collectTagged(batch []*ipc.Delivery) (n int, err error) {
	hasAnswered := false
	defer func() {
		if hasAnswered {
			c.Flush()
		}
	}()
	for n < len(batch) {
		t, size, ok, err := frame.CutTagged(c.in.Unread(), c.longest())
		if err != nil {
			return n, c.faultOf(err)
		}
		if !ok {
			c.in.Need(size)
			return n, nil
		}
		c.alarm = max(c.alarm, 0) // the frame that the deadline was for is there
		var d *ipc.Delivery
		if t.Tag == 0 || !c.tags.greeted {
			err = c.takeControl(t, size)
		} else {
			d, err = c.taggedMessage(t, size)
		}
		switch {
		case err != nil:
			return n, err
		case d != nil:
			batch[n] = d
			n++
		default:
			hasAnswered = true
		}
	}
	return n, nil
}

// longest is how long the body of the next frame may be.
func (c *conn) longest() int {
	if !c.tags.greeted {
		return maxHello
	}
	return min(c.listener.queue.MaxMessage(), frame.MaxTaggedBody)
}

// faultOf returns the fault of a frame that cannot be cut, or nil if its tag, which
// the answer needs, has not arrived yet.
func (c *conn) faultOf(err error) error {
	const header = frame.HeaderSize + frame.TagSize
	switch {
	case !c.tags.greeted:
		return notHello()
	case !errors.Is(err, frame.ErrTooLong):
		return &tagFault{code: frame.NotTagged, text: err.Error()}
	case c.in.Buffered() < header:
		c.in.Need(header)
		return nil
	}
	tag := binary.BigEndian.Uint64(c.in.Unread()[frame.HeaderSize:])
	if tag > frame.MaxTag {
		return &tagFault{code: frame.NotTagged, text: frame.ErrBadTag.Error()}
	}
	c.mu.Lock()
	isOpen := c.tags.isOpen(tag)
	c.mu.Unlock()
	if isOpen {
		return stillOpen(tag)
	}
	return &tagFault{code: frame.TooBig, tag: tag, text: c.tooLongText(), cause: err}
}

func notHello() error {
	return &tagFault{code: frame.NotTagged, isPlain: true,
		text: fmt.Sprintf(`the first frame here is tagged, with the tag 0 and the body {"hello":%d}`, protocolVersion)}
}

func stillOpen(tag uint64) error {
	return &tagFault{code: frame.NotTagged, text: fmt.Sprintf("the message with the tag %d is not answered yet", tag)}
}

// takeControl takes a control frame, and the first frame, which must be the hello.
func (c *conn) takeControl(t frame.Tagged, size int) error {
	control, err := frame.ParseControl(t.Body)
	c.in.Advance(size)
	if c.draining {
		c.isInTime(size)
	}
	if c.tags.greeted { // there is none that a client would send
		return nil
	}
	if t.Tag != 0 || err != nil || control.Hello != protocolVersion {
		return notHello()
	}
	c.tags.greeted = true
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Add(frame.AppendControl(nil, frame.Control{Hello: protocolVersion}))
	return nil
}

// taggedMessage consumes a frame. It returns nil if that is answered already.
func (c *conn) taggedMessage(t frame.Tagged, size int) (*ipc.Delivery, error) {
	c.mu.Lock()
	ok := c.tags.add(t.Tag)
	c.mu.Unlock()
	if !ok {
		return nil, stillOpen(t.Tag)
	}
	if c.draining && !c.isInTime(size) {
		c.in.Advance(size)
		c.refuseTagged(t.Tag, frame.Stopping, stoppingText)
		return nil, nil
	}
	d, err := c.untag(t, size)
	if err != nil {
		d.Release()
		c.refuseTagged(t.Tag, frame.NotTagged, err.Error())
		return nil, nil
	}
	return d, nil
}

// untag consumes a frame, and makes a message of it. The error is that of its
// meta. A large one is moved in its buffer, and not copied.
func (c *conn) untag(t frame.Tagged, size int) (d *ipc.Delivery, err error) {
	if buf := c.in.Take(size); buf != nil {
		d = ipc.AdoptFrame(c, &c.flow, buf[:frame.HeaderSize+len(t.Body)])
		d.SetTag(t.Tag)
		err = d.SetMeta(t.Meta) // before the body takes its place
		copy(buf[frame.HeaderSize:], t.Body)
		frame.PutHeader(buf, len(t.Body))
		return d, err
	}
	// What stands before the body, which has been read, makes room for a header.
	whole := c.in.Unread()[size-len(t.Body)-frame.HeaderSize : size]
	c.in.Advance(size)
	kept := [frame.HeaderSize]byte(whole)
	frame.PutHeader(whole, len(t.Body))
	d = ipc.FromFrame(c, &c.flow, whole)
	copy(whole, kept[:])
	d.SetTag(t.Tag)
	return d, d.SetMeta(t.Meta)
}

// answerTagged is Settled with tags.
func (c *conn) answerTagged(d *ipc.Delivery, reply []byte) {
	var head [frame.MaxTaggedHeader + 256]byte // of a reply without a long meta: nothing is allocated
	body := frame.Body(reply)
	c.out.Add(frame.AppendTaggedHeader(head[:0], d.Tag(), frame.IsFailure(reply), d.ReplyMeta(), len(body)))
	c.out.Add(body)
	c.closeTag(d.Tag())
	d.Release()
}

// refuseTagged answers a message that the queue does not get.
func (c *conn) refuseTagged(tag uint64, code frame.Code, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Add(frame.AppendTaggedFailure(nil, tag, code, text))
	c.closeTag(tag)
}

// closeTag notes that a message is answered. With mu held.
func (c *conn) closeTag(tag uint64) {
	if last := c.tags.remove(tag); last != nil {
		c.out.Add(last)
	}
}

// endTags answers a fault after all messages, and lets the client finish.
func (c *conn) endTags(f *tagFault) {
	c.mu.Lock()
	if c.tags.due() == 0 {
		c.out.Add(f.frame())
	} else {
		c.tags.last = f.frame()
	}
	c.mu.Unlock()
	c.Flush()
	c.discard()
}
