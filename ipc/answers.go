package ipc

import (
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/netio"
)

// cutFrame returns a whole frame, or nil if there is none yet. It is valid until
// the next Fill.
func (l *large) cutFrame(in *netio.Reader) ([]byte, error) {
	whole, need, err := frame.Cut(in.Unread(), frame.MaxReply)
	switch {
	case whole != nil:
		l.consume(in, len(whole))
		return whole, nil
	case need > l.most():
		l.skip(in, need, frame.AppendFailure(nil, frame.Refused, l.text(need)))
		return nil, nil
	}
	in.Need(need)
	return nil, err
}

// cutLine returns a line as a frame, or nil if there is none yet.
func (l *large) cutLine(in *netio.Reader) ([]byte, error) {
	line, ok := in.Line()
	switch {
	case ok:
		return frame.Append(nil, line), nil
	case in.Buffered() > l.most():
		return nil, frame.ErrTooLong
	}
	return nil, nil
}

// A tagged answer is kept as it was cut until its message is known.
type tagged struct {
	tags  [maxAutoWindow]uint64
	metas [maxAutoWindow]int // their lengths
}

// cut returns the next whole tagged frame that answers a message, the n-th
// of a batch, or nil if there is none yet. What the worker says beside that is
// acted on.
func (t *tagged) cut(in *netio.Reader, l *large, n int, touch func(tag uint64)) ([]byte, error) {
	for {
		unread := in.Unread()
		f, size, ok, err := frame.CutTagged(unread, frame.MaxReply)
		if err != nil {
			return nil, err
		}
		if !ok {
			tag, known := frame.TagOf(unread)
			if size <= l.most() || known && tag == 0 {
				in.Need(size)
				return nil, nil
			}
			if !known {
				in.Need(frame.HeaderSize + frame.TagSize)
				return nil, nil
			}
			l.skip(in, size, frame.AppendTaggedFailure(nil, tag, frame.Refused, l.text(size)))
			return nil, nil
		}
		l.consume(in, size)
		if f.Tag != 0 {
			t.tags[n], t.metas[n] = f.Tag, len(f.Meta)
			return unread[:size], nil
		}
		control, err := frame.ParseControl(f.Body)
		if err != nil {
			return nil, err
		}
		if control.Touch > 0 {
			touch(control.Touch)
		}
	}
}

// note notes a whole frame without meta as the n-th of a batch.
func (t *tagged) note(whole []byte, n int) {
	t.tags[n], _ = frame.TagOf(whole)
	t.metas[n] = 0
}

// plain makes a plain frame of the n-th answer, in its place. d is its message,
// which keeps the meta.
func (t *tagged) plain(whole []byte, n int, d *Delivery) []byte {
	start := frame.HeaderSize + frame.TagSize
	if frame.HasMeta(whole) {
		start = frame.MaxTaggedHeader + t.metas[n]
	}
	failed := frame.IsFailure(whole)
	if t.metas[n] > 0 && !failed { // of a failure it is not needed, and the client's may be
		d.setReplyMeta(whole[frame.MaxTaggedHeader:start])
	}
	plain := whole[start-frame.HeaderSize:]
	frame.PutHeader(plain, len(plain)-frame.HeaderSize)
	if failed {
		frame.MarkFailure(plain)
	}
	return plain
}
