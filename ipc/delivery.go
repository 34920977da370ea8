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
// It is owned by one party at a time: its source until Submit has taken it,
// then the queue, until its origin's Settled returns.
type Delivery struct {
	next   *Delivery // in the queue or in flight: it is in one list at a time
	origin Origin
	frame  []byte // header and body
	source *SourceStats

	id       uint64
	attempts int      // deliveries that failed
	last     *Channel // who had it last
	text     string   // why the last attempt failed
	arrived  time.Duration
	given    time.Duration // when its worker got it

	// For origins that answer in order.
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

// keepFrame is the largest buffer that a pooled Delivery holds on to.
const keepFrame = 4 << 10

// NewDelivery returns a message with a copy of body.
func NewDelivery(origin Origin, source *SourceStats, body []byte) *Delivery {
	d := newDelivery(origin, source)
	d.frame = frame.Append(d.frame[:0], body)
	return d
}

func newDelivery(origin Origin, source *SourceStats) *Delivery {
	d := deliveries.Get().(*Delivery)
	d.origin, d.source = origin, source
	return d
}

// Body returns the message. It is valid until the message is settled.
func (d *Delivery) Body() []byte { return frame.Body(d.frame) }

// Attempt counts the deliveries of the message, from 1.
func (d *Delivery) Attempt() int { return d.attempts + 1 }

// Worker is the number of the worker that had the message last, or -1.
func (d *Delivery) Worker() int {
	if d.last == nil {
		return -1
	}
	return d.last.worker
}

// Release gives d back after it was settled.
func (d *Delivery) Release() {
	kept := d.frame
	if cap(kept) > keepFrame {
		netio.PutBuffer(kept)
		kept = nil
	}
	*d = Delivery{frame: kept[:0]}
	deliveries.Put(d)
}

// keepReply makes d hold its reply instead of its body, which nobody needs any
// more.
func (d *Delivery) keepReply(reply []byte) {
	if cap(d.frame) < len(reply) {
		netio.PutBuffer(d.frame)
		d.frame = netio.GetBuffer(len(reply))
	}
	d.frame = append(d.frame[:0], reply...)
	d.done = true
}

// holds is the memory that a settled message takes until it is its turn.
func (d *Delivery) holds() int { return int(unsafe.Sizeof(*d)) + cap(d.frame) }

// A list is a queue of deliveries.
type list struct {
	head, tail *Delivery
	n          int
	bytes      int // of their frames
}

func (l *list) push(d *Delivery) {
	d.next = nil
	if l.tail == nil {
		l.head = d
	} else {
		l.tail.next = d
	}
	l.tail = d
	l.n++
	l.bytes += len(d.frame)
}

func (l *list) pop() *Delivery {
	d := l.head
	l.head = d.next
	if l.head == nil {
		l.tail = nil
	}
	d.next = nil
	l.n--
	l.bytes -= len(d.frame)
	return d
}

// prepend puts all of another list before this one, and empties it.
func (l *list) prepend(o *list) {
	if o.head == nil {
		return
	}
	o.tail.next = l.head
	if l.head == nil {
		l.tail = o.tail
	}
	l.head = o.head
	l.n += o.n
	l.bytes += o.bytes
	*o = list{}
}
