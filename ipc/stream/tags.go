package stream

import (
	"errors"
	"fmt"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
)

// protocolVersion is that of tagged frames.
const protocolVersion = 1

// maxHello is the longest body of a client's first frame, in bytes. What begins
// with a longer one is no hello, but HTTP, say.
const maxHello = 1 << 10

// tags are what a connection with tagged=true does and knows besides: which of its
// messages are not answered. A connection without any holds no memory for that.
type tags struct {
	*conn
	greeted bool // the reader's own: the hello has come

	open *tagSet // mu; nil: none is
	last []byte  // mu: what is said after all answers; nil: nothing
}

// add opens a tag, unless it is open. With mu held, as isOpen, remove and due.
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

// take is takeFrames with tags.
func (t *tags) take() error {
	var batch [batchSize]*ipc.Delivery
	for {
		n, err := t.collectTagged(batch[:])
		if n > 0 {
			t.submitExpected(batch[:n])
		}
		if err != nil {
			return err
		}
		if n == 0 {
			t.awaitReader() // of what was answered at once
			return nil
		}
	}
}

// collectTagged makes messages of whole tagged frames. What can be answered at
// once is.
func (t *tags) collectTagged(batch []*ipc.Delivery) (n int, err error) {
	hasAnswered := false
	defer func() {
		if hasAnswered {
			t.Flush()
		}
	}()
	for n < len(batch) {
		f, size, ok, err := frame.CutTagged(t.in.Unread(), t.longest())
		if err != nil {
			return n, t.faultOf(err)
		}
		if !ok {
			t.in.Need(size)
			return n, nil
		}
		if t.newcomer != nil {
			t.listener.isKnown(t.conn)
		}
		t.alarm = max(t.alarm, 0) // the frame that the deadline was for is there
		var d *ipc.Delivery
		if f.Tag == 0 || !t.greeted {
			err = t.takeControl(f, size)
		} else {
			d, err = t.message(f, size)
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
func (t *tags) longest() int {
	if !t.greeted {
		return maxHello
	}
	return min(t.listener.queue.MaxMessage(), frame.MaxTaggedBody)
}

// faultOf returns the fault of a frame that cannot be cut, or nil if its tag, which
// the answer needs, has not arrived yet.
func (t *tags) faultOf(err error) error {
	switch {
	case !t.greeted:
		return notHello()
	case !errors.Is(err, frame.ErrTooLong):
		return &tagFault{code: frame.NotTagged, text: err.Error()}
	}
	tag, ok := frame.TagOf(t.in.Unread())
	if !ok {
		t.in.Need(frame.HeaderSize + frame.TagSize)
		return nil
	}
	if tag > frame.MaxTag {
		return &tagFault{code: frame.NotTagged, text: frame.ErrBadTag.Error()}
	}
	t.mu.Lock()
	isOpen := t.isOpen(tag)
	t.mu.Unlock()
	if isOpen {
		return stillOpen(tag)
	}
	return &tagFault{code: frame.TooBig, tag: tag, text: t.tooLongText(), cause: err}
}

func notHello() error {
	return &tagFault{code: frame.NotTagged, isPlain: true,
		text: fmt.Sprintf(`the first frame here is tagged, with the tag 0 and the body {"hello":%d}`, protocolVersion)}
}

func stillOpen(tag uint64) error {
	return &tagFault{code: frame.NotTagged, text: fmt.Sprintf("the message with the tag %d is not answered yet", tag)}
}

// takeControl takes a control frame, and the first frame, which must be the hello.
func (t *tags) takeControl(f frame.Tagged, size int) error {
	control, err := frame.ParseControl(f.Body)
	t.in.Advance(size)
	if t.draining {
		t.isInTime(size)
	}
	if t.greeted { // there is none that a client would send
		return nil
	}
	if f.Tag != 0 || err != nil || control.Hello != protocolVersion {
		return notHello()
	}
	t.greeted = true
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out.Add(frame.AppendControl(nil, frame.Control{Hello: protocolVersion}))
	return nil
}

// message consumes a frame. It returns nil if that is answered already.
func (t *tags) message(f frame.Tagged, size int) (*ipc.Delivery, error) {
	t.mu.Lock()
	ok := t.add(f.Tag)
	t.mu.Unlock()
	if !ok {
		return nil, stillOpen(f.Tag)
	}
	if t.draining && !t.isInTime(size) {
		t.in.Advance(size)
		t.refuseAtOnce(f.Tag, frame.Stopping, stoppingText)
		return nil, nil
	}
	d, err := t.untag(f, size)
	if err != nil {
		d.Release()
		t.refuseAtOnce(f.Tag, frame.NotTagged, err.Error())
		t.listener.notTagged(err.Error())
		return nil, nil
	}
	return d, nil
}

// untag consumes a frame, and makes a message of it. The error is that of its
// meta. A large one is moved in its buffer, and not copied.
func (t *tags) untag(f frame.Tagged, size int) (d *ipc.Delivery, err error) {
	if buf := t.in.Take(size); buf != nil {
		d = ipc.AdoptFrame(t.conn, &t.flow, buf[:frame.HeaderSize+len(f.Body)])
		d.SetTag(f.Tag)
		err = d.SetMeta(f.Meta) // before the body takes its place
		copy(buf[frame.HeaderSize:], f.Body)
		frame.PutHeader(buf, len(f.Body))
		return d, err
	}
	// What stands before the body, which has been read, makes room for a header.
	whole := t.in.Unread()[size-len(f.Body)-frame.HeaderSize : size]
	t.in.Advance(size)
	kept := [frame.HeaderSize]byte(whole)
	frame.PutHeader(whole, len(f.Body))
	d = ipc.FromFrame(t.conn, &t.flow, whole)
	copy(whole, kept[:])
	d.SetTag(f.Tag)
	return d, d.SetMeta(f.Meta)
}

// answer is Settled with tags.
func (t *tags) answer(d *ipc.Delivery, reply []byte) {
	var head [frame.MaxTaggedHeader + 256]byte // of a reply without a long meta: nothing is allocated
	body := frame.Body(reply)
	t.out.Add(frame.AppendTaggedHeader(head[:0], d.Tag(), frame.IsFailure(reply), d.ReplyMeta(), len(body)))
	if own := d.HandOver(reply); own != nil {
		t.out.AddBuffer(frame.Body(own))
	} else {
		t.out.Add(body)
	}
	t.closeTag(d.Tag())
	d.Release()
}

// refuseAtOnce answers a message that the queue does not get.
func (t *tags) refuseAtOnce(tag uint64, code frame.Code, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out.Add(frame.AppendTaggedFailure(nil, tag, code, text))
	t.closeTag(tag)
}

// closeTag notes that a message is answered. With mu held.
func (t *tags) closeTag(tag uint64) {
	if last := t.remove(tag); last != nil {
		t.out.Add(last)
	}
}

// endWith answers a fault after all messages, and lets the client finish.
func (t *tags) endWith(fault *tagFault) {
	t.mu.Lock()
	if t.due() == 0 {
		t.out.Add(fault.frame())
	} else {
		t.last = fault.frame()
	}
	t.mu.Unlock()
	t.Flush()
	t.discard()
}
