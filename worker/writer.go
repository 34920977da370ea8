package worker

import (
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/poolinit/poolinit/worker/internal/frame"
)

// hold is how often a goroutine looks for replies that wait for the others of
// their batch, and writes them. A slow message must not keep the replies of fast
// ones.
const hold = time.Millisecond

// patience is how many times it looks in vain before it rests.
const patience = 16

const (
	// batchBytes is how much is written at a time.
	batchBytes = 64 << 10
	// largeReply is the size of a reply that is written without a copy.
	largeReply = 32 << 10
)

// An answer is what goes out for one message.
type answer struct {
	tag    uint64
	failed bool
	meta   []byte
	body   []byte
}

// A writer collects replies. Where messages are handled one after the other, those
// of a batch go out together. Otherwise a goroutine that answers writes, and those
// that answer meanwhile leave their replies to it.
type writer struct {
	dst    io.Writer
	format format
	shared bool // messages are handled at the same time

	mu       sync.Mutex
	buf      []byte
	err      error
	hand     *Message // the one without its reply; nil: there is none, or it is shared
	detached bool
	looking  bool      // the looker looks, or is about to
	writing  bool      // shared: a goroutine writes, or is about to
	written  sync.Cond // shared: it has ended
	spare    []byte    // shared: the buffer for what is added meanwhile

	wake   chan struct{} // 1: not lost while the looker is still about to wait
	ending chan struct{}
	looker sync.WaitGroup
}

func (o *writer) init(dst io.Writer, f format, shared bool) {
	o.dst, o.format, o.shared, o.buf = dst, f, shared, make([]byte, 0, batchBytes)
	o.written.L = &o.mu
	o.wake, o.ending = make(chan struct{}, 1), make(chan struct{})
	o.looker.Add(1)
	go func() { // ends in close, which waits for it
		defer o.looker.Done()
		o.look()
	}()
}

// begin notes that a message is in hand.
func (o *writer) begin(m *Message) {
	o.mu.Lock()
	o.hand = m
	o.mu.Unlock()
}

// answer adds a reply. It is written unless more follow soon.
func (o *writer) answer(a answer, more bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.detached {
		return io.ErrClosedPipe
	}
	o.hand = nil
	o.put(a)
	if !more || len(o.buf) >= batchBytes {
		o.write()
	} else if !o.looking {
		o.looking = true
		o.wake <- struct{}{}
	}
	return o.err
}

// touch says that the worker still has the message.
func (o *writer) touch(tag uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.detached {
		return io.ErrClosedPipe
	}
	o.buf = frame.AppendControl(o.buf, frame.Control{Touch: tag})
	o.write()
	return o.err
}

// put adds a reply with its header or end of line. mu is held, as for add and
// write.
func (o *writer) put(a answer) {
	switch o.format {
	case formatLines:
		o.add(a.body)
		o.buf = append(o.buf, '\n')
		return
	case formatTagged:
		o.buf = frame.AppendTaggedHeader(o.buf, a.tag, a.failed, a.meta, len(a.body))
	default:
		start := len(o.buf)
		o.buf = frame.AppendHeader(o.buf, len(a.body))
		if a.failed {
			frame.MarkFailure(o.buf[start:])
		}
	}
	o.add(a.body)
}

func (o *writer) add(b []byte) {
	if len(b) < largeReply || o.shared {
		o.buf = append(o.buf, b...)
		return
	}
	if o.write(); o.err == nil {
		_, o.err = o.dst.Write(b)
	}
}

func (o *writer) write() {
	if o.shared {
		o.writeShared()
		return
	}
	if len(o.buf) > 0 && o.err == nil {
		_, o.err = o.dst.Write(o.buf)
	}
	o.buf = o.buf[:0]
}

// writeShared is write where several goroutines answer. It releases mu while it
// writes; those that come meanwhile leave their bytes to it.
func (o *writer) writeShared() {
	if o.writing {
		return
	}
	o.writing = true
	for len(o.buf) > 0 && o.err == nil {
		o.mu.Unlock()
		runtime.Gosched() // handlers that are about to answer do so first: one write takes all
		o.mu.Lock()
		out := o.buf
		o.buf = o.spare[:0]
		o.mu.Unlock()
		_, err := o.dst.Write(out)
		o.mu.Lock()
		if o.err = err; cap(out) <= keepBuffer {
			o.spare = out
		} else {
			o.spare = nil
		}
	}
	o.writing = false
	o.written.Broadcast()
}

func (o *writer) flush() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.write()
	return o.err
}

// last answers the message in hand, if there is one, and nothing after it. Where
// messages are handled at the same time it is m, or none of them.
func (o *writer) last(m *Message, reply []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.shared {
		m = o.hand
	}
	if m != nil && !o.detached {
		o.put(answer{tag: m.tag, body: reply})
	}
	o.detached = true
	for o.writing { // what it still writes must not be cut off
		o.written.Wait()
	}
	o.write()
	return o.err
}

func (o *writer) isDetached() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.detached
}

// look writes what waits for too long. It sleeps while there is no batch.
func (o *writer) look() {
	for {
		select {
		case <-o.wake:
		case <-o.ending:
			return
		}
		ticker := time.NewTicker(hold)
		for idle := 0; idle < patience; idle++ {
			select {
			case <-ticker.C:
			case <-o.ending:
				ticker.Stop()
				return
			}
			if o.nudge(idle+1 == patience) {
				idle = -1
			}
		}
		ticker.Stop()
	}
}

// nudge writes what waits, and reports whether there was something. last says that
// the looker is going to sleep if there was not.
func (o *writer) nudge(last bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	waited := len(o.buf) > 0
	o.write()
	o.looking = waited || !last
	return waited
}

func (o *writer) close() {
	close(o.ending)
	o.looker.Wait()
}
