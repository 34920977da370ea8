package ipc

import (
	"sync"
	"time"
	"unsafe"

	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/netio"
)

// A Delivery is one message on its way, and the whole truth about it. It is
// settled exactly once, whatever happens to the workers that had it.
//
// It has one owner at a time: its source until Submit has taken it, then the
// queue, until its origin's Settled is called.
type Delivery struct {
	next   *Delivery // in the queue or in flight: it is in one list at a time
	prev   *Delivery
	origin Origin
	frame  []byte // header and body
	flow   *Flow
	source *SourceStats // of the flow's lane
	meta   []byte       // the client's, then the reply's
	tag    uint64       // the client's number of it

	hasReplyMeta bool

	id       uint64
	attempts int      // deliveries that failed
	last     *Channel // of the worker that had it last
	text     string   // why the last attempt failed
	arrived  time.Duration
	again    time.Duration // when it is, or was, to be delivered again

	sooner, later *Delivery // of its lane, in the order in which they expire
	place         int       // among the retries that wait for their time
	free          int       // deaths of workers that may not have read it
	isAgain       bool      // it waits, or has waited, among those that had a worker before
	isAside       bool      // it waits, and does not count for the queue's limits
	isSuspect     bool      // it is delivered alone: it may have killed a worker
	fate          fate      // what becomes of it after a failed delivery

	// While a worker has it.
	given   time.Duration // when it was written
	began   time.Duration // when the worker was free to begin with it; 0: not yet
	touched time.Duration // when the worker last said that it works on it
	end     int           // of the channel's output, where its bytes end
	number  uint64        // the tag by which the worker knows it

	// For Replies.
	reply   []byte // a large one, in a buffer of its own; nil: there is none
	follows *Delivery
	done    bool // settled, but an earlier one is not: frame is the reply now
}

// An Origin is where a message came from, and where its result goes.
type Origin interface {
	// Settled is told the result of a message: the frame of the reply, which
	// may be empty, or a failure frame. reply is valid during the call only.
	// It must not block. d belongs to the origin from then on, and is given
	// back by Release.
	Settled(d *Delivery, reply []byte)
	// Flush is called after one or more calls of Settled.
	Flush()
}

// epoch is what the times in deliveries count from. The monotonic clock alone
// is cheaper than time.Now.
var epoch = time.Now()

func now() time.Duration { return time.Since(epoch) }

var deliveries = sync.Pool{New: func() any { return new(Delivery) }}

// keepFrame is the largest buffer that a pooled Delivery keeps.
const keepFrame = 4 << 10

// NewDelivery returns a message of a flow with a copy of body.
func NewDelivery(origin Origin, flow *Flow, body []byte) *Delivery {
	d := newDelivery(origin, flow)
	d.frame = frame.Append(d.frame[:0], body)
	return d
}

// FromFrame returns a message with a copy of a whole frame.
func FromFrame(origin Origin, flow *Flow, whole []byte) *Delivery {
	d := newDelivery(origin, flow)
	d.frame = append(d.room(len(whole)), whole...) // d's own buffer, almost always: nothing is allocated
	frame.ClearFailure(d.frame)                    // in a message the bit has no meaning
	return d
}

// AdoptFrame returns a message that has a whole frame in a buffer which belongs
// to it from then on. It is for large ones.
func AdoptFrame(origin Origin, flow *Flow, whole []byte) *Delivery {
	d := newDelivery(origin, flow)
	d.frame = whole
	frame.ClearFailure(d.frame)
	return d
}

func newDelivery(origin Origin, flow *Flow) *Delivery {
	d := deliveries.Get().(*Delivery)
	d.origin, d.flow, d.source = origin, flow, flow.lane.Source
	return d
}

// room returns an empty buffer for a frame of n bytes, d's own if it is large
// enough.
func (d *Delivery) room(n int) []byte {
	if n <= cap(d.frame) {
		return d.frame[:0]
	}
	if n <= keepFrame {
		return make([]byte, 0, min(n+64, keepFrame))
	}
	return netio.GetBuffer(n)
}

// Resume says that the message has had attempts before, which failed. It is for
// before Submit.
func (d *Delivery) Resume(attempts int) { d.attempts = attempts }

// Body returns the message. It is valid until the message is settled.
func (d *Delivery) Body() []byte { return frame.Body(d.frame) }

// Size returns how many bytes the message takes of a queue's limit.
func (d *Delivery) Size() int { return len(d.frame) + len(d.meta) }

// ID counts the messages of a queue, from 1. It is 0 before Submit.
func (d *Delivery) ID() uint64 { return d.id }

// Arrived returns when the message was submitted.
func (d *Delivery) Arrived() time.Time { return epoch.Add(d.arrived) }

// Attempts counts the deliveries of the message that failed.
func (d *Delivery) Attempts() int { return d.attempts }

// Origin returns what is told the result.
func (d *Delivery) Origin() Origin { return d.origin }

// Source returns the counters of the source that the message came from.
func (d *Delivery) Source() *SourceStats { return d.source }

// Worker is the number of the worker that had the message last, or -1.
func (d *Delivery) Worker() int {
	if d.last == nil {
		return -1
	}
	return d.last.worker
}

// Release gives d back after it was settled.
func (d *Delivery) Release() {
	kept, meta := d.frame, d.meta
	if d.reply != nil {
		netio.PutBuffer(d.reply)
	}
	if cap(kept) > keepFrame {
		netio.PutBuffer(kept)
		kept = nil
	}
	if cap(meta) > keepFrame {
		meta = nil
	}
	*d = Delivery{frame: kept[:0], meta: meta[:0]}
	deliveries.Put(d)
}

// assignID gives a message its number, the first time it gets here.
func (d *Delivery) assignID(q *Queue, at time.Duration) {
	if d.id == 0 {
		d.id, d.arrived = q.lastID.Add(1), at
	}
}

// keepReply makes d hold its reply instead of its body, which is not needed any
// more.
func (d *Delivery) keepReply(reply []byte) {
	d.done = true
	if own := d.takeReply(reply); own != nil {
		netio.PutBuffer(d.frame)
		d.frame = own
		return
	}
	if cap(d.frame) < len(reply) {
		netio.PutBuffer(d.frame)
		d.frame = netio.GetBuffer(len(reply))
	}
	d.frame = append(d.frame[:0], reply...)
}

// dropReply makes d hold nothing: its client is gone.
func (d *Delivery) dropReply() {
	d.done = true
	if cap(d.frame) > keepFrame {
		netio.PutBuffer(d.frame)
		d.frame = nil
	}
	d.frame = d.frame[:0]
}

// takeReply returns the buffer of a reply if d has it for itself.
func (d *Delivery) takeReply(reply []byte) []byte {
	if len(d.reply) == 0 || &d.reply[0] != &reply[0] {
		return nil
	}
	d.reply = nil
	return reply
}

// HandOver is for Settled, which gets d and its reply: it returns the reply if that
// is a large one in a buffer of its own, which belongs to the origin from then on. It
// need not be copied.
func (d *Delivery) HandOver(reply []byte) []byte {
	if len(reply) < largeReply {
		return nil
	}
	return d.handOver(reply)
}

func (d *Delivery) handOver(reply []byte) []byte {
	if d.done { // Replies has kept it
		d.frame = nil
		return reply
	}
	return d.takeReply(reply)
}

// largeReply is how long a reply is that is not copied, in bytes.
const largeReply = 64 << 10

// holds is the memory that a settled message takes until it is its turn.
func (d *Delivery) holds() int { return int(unsafe.Sizeof(*d)) + cap(d.frame) }
