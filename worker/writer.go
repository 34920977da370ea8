package worker

import (
	"io"
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

// A writer collects replies.
type writer struct {
	dst   io.Writer
	lines bool

	mu       sync.Mutex
	buf      []byte
	err      error
	inHand   bool // there is a message without its reply
	detached bool
	looking  bool // the looker looks, or is about to

	wake   chan struct{} // 1: not lost while the looker is still about to wait
	ending chan struct{}
	looker sync.WaitGroup
}

func (o *writer) init(dst io.Writer, lines bool) {
	o.dst, o.lines, o.buf = dst, lines, make([]byte, 0, batchBytes)
	o.wake, o.ending = make(chan struct{}, 1), make(chan struct{})
	o.looker.Add(1)
	go func() { // ends in close, which waits for it
		defer o.looker.Done()
		o.look()
	}()
}

// begin notes that a message is in hand.
func (o *writer) begin() {
	o.mu.Lock()
	o.inHand = true
	o.mu.Unlock()
}

// answer adds a reply, or a whole failure frame. It is written unless more follow
// soon.
func (o *writer) answer(reply []byte, failure, more bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.detached {
		return io.ErrClosedPipe
	}
	o.inHand = false
	if failure {
		o.add(reply)
	} else {
		o.put(reply)
	}
	if !more || len(o.buf) >= batchBytes {
		o.write()
	} else if !o.looking {
		o.looking = true
		o.wake <- struct{}{}
	}
	return o.err
}

// put adds a reply with its header or end of line. mu is held, as for add and
// write.
func (o *writer) put(reply []byte) {
	if o.lines {
		o.add(reply)
		o.buf = append(o.buf, '\n')
		return
	}
	o.buf = frame.AppendHeader(o.buf, len(reply))
	o.add(reply)
}

func (o *writer) add(b []byte) {
	if len(b) < largeReply {
		o.buf = append(o.buf, b...)
		return
	}
	if o.write(); o.err == nil {
		_, o.err = o.dst.Write(b)
	}
}

func (o *writer) write() {
	if len(o.buf) > 0 && o.err == nil {
		_, o.err = o.dst.Write(o.buf)
	}
	o.buf = o.buf[:0]
}

func (o *writer) flush() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.write()
	return o.err
}

// last answers the message in hand, if there is one, and nothing after it.
func (o *writer) last(reply []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inHand && !o.detached {
		o.put(reply)
	}
	o.detached = true
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
