package ipc

import (
	"fmt"

	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/netio"
)

// A large is what a channel's reader does about large replies: it asks for the
// memory before it reads one, hands its buffer on without a copy, and reads one
// that is longer than --reply-bytes without keeping it.
type large struct {
	q       *Queue
	claim   *Claim // nil: there is no large reply
	taken   []byte // the buffer of the reply that has just been cut; nil: it was a small one
	left    int    // bytes of a reply that are not kept, and have not been read
	instead []byte // the failure that answers the message then
}

// most is how long the frame of a reply may be.
func (l *large) most() int { return l.q.MaxReply() + frame.HeaderSize }

func (l *large) text(size int) string {
	return fmt.Sprintf("the message was handled, but its reply of %d bytes is longer than --reply-bytes allows (%d)", size, l.q.cfg.ReplyBytes)
}

// makeRoom is for before each Fill: it asks for the memory of a reply that is larger
// than the buffer, and gives it back afterwards.
func (l *large) makeRoom(in *netio.Reader) {
	if l.claim != nil && in.Buffered() == 0 {
		in.Release()
		l.close()
	}
	if n := in.Missing(); n > 0 {
		if l.claim == nil {
			l.claim = l.q.reads.Open(n, nil)
		}
		l.claim.Fit(in, n)
	}
	if l.claim != nil {
		l.claim.Await()
	}
}

// arrived is for after each Fill.
func (l *large) arrived(n int) {
	if l.claim != nil {
		l.claim.Arrived(n)
	}
}

func (l *large) close() {
	if l.claim != nil {
		l.claim.Close()
		l.claim = nil
	}
}

// consume consumes a whole reply. If it has a buffer of its own, settle gets that.
func (l *large) consume(in *netio.Reader, size int) {
	if l.taken = in.Take(size); l.taken == nil {
		in.Advance(size)
	}
}

// skip begins to read a reply of so many bytes without keeping it. More of it is to
// come.
func (l *large) skip(in *netio.Reader, size int, instead []byte) {
	l.left, l.instead = size, instead
	l.rest(in)
}

// rest goes on with that, and returns what answers the message when all of the reply
// has been read, or nil.
func (l *large) rest(in *netio.Reader) (answer []byte) {
	n := min(l.left, in.Buffered())
	in.Advance(n)
	if l.left -= n; l.left > 0 {
		return nil
	}
	return l.instead
}

// handOver gives a message the buffer of its reply, if that has one of its own, and
// returns the reply.
func (l *large) handOver(d *Delivery, reply []byte) []byte {
	if l.taken != nil && len(reply) > 0 {
		d.reply = reply
		l.taken = nil
	}
	return reply
}

// forget gives back the buffer of a reply that was not handed over.
func (l *large) forget() {
	if l.taken != nil {
		netio.PutBuffer(l.taken)
		l.taken = nil
	}
}
