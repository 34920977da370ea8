package ipc

import "time"

// MaxPriority is the highest priority of a source.
const MaxPriority = 9

// A Lane is what all flows of a source have in common. Its exported fields are
// not changed when a flow has been made.
type Lane struct {
	Source   *SourceStats  // counts what becomes of the messages
	Priority int           // 0 to MaxPriority: messages of a higher one go before all others
	Expires  time.Duration // a message that no worker has got by then is not delivered any more; 0: never
	// Unheard says that the senders are not told how their messages end: what they
	// could send again is given up instead.
	Unheard bool

	expiry expiry // guarded by the queue's mutex
}

// A Flow is what the queue is fair to: the messages of one sender, such as a
// connection, a System V queue, or the spool. Of several flows with messages that
// wait, each has its turn. A Flow is a part of its owner, and must not be copied
// once a message of it was submitted.
type Flow struct {
	lane *Lane
	turn *turn // guarded by the queue's mutex; nil: nothing of it waits

	isHeld bool // its new messages are not handed out; guarded by the queue's mutex
}

// NewFlow returns a flow in a lane.
func NewFlow(lane *Lane) Flow { return Flow{lane: lane} }

// A turn is the place of a flow among those that wait, for workers or for room.
// It is apart from the Flow because most connections have nothing that waits.
type turn struct {
	flow *Flow
	list list // its messages that wait and that no worker had yet

	next, prev *turn // in its level's ring, while list is not empty

	room          chan struct{} // closed when there is room; nil: it does not wait for that
	wants         int           // the bytes that it waits for
	left          int           // the messages that it waits with
	line          *line         // in which it waits
	before, after *turn         // in there
	granted       int           // places that are kept for it
	each          int           // bytes that are kept for each of those
	run           int           // messages that went one after the other in this turn
}

// A ring is flows in the order of their turns.
type ring struct{ first, last *turn }

func (r *ring) push(t *turn) {
	t.next, t.prev = nil, r.last
	if r.last == nil {
		r.first = t
	} else {
		r.last.next = t
	}
	r.last = t
}

func (r *ring) remove(t *turn) {
	if t.prev == nil {
		r.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		r.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.next, t.prev = nil, nil
}

// A line is flows that wait for room, first come, first served.
type line struct{ first, last *turn }

func (l *line) push(t *turn) {
	t.line, t.after, t.before = l, nil, l.last
	if l.last == nil {
		l.first = t
	} else {
		l.last.after = t
	}
	l.last = t
}

func (l *line) remove(t *turn) {
	if t.before == nil {
		l.first = t.after
	} else {
		t.before.after = t.after
	}
	if t.after == nil {
		l.last = t.before
	} else {
		t.after.before = t.before
	}
	t.line, t.before, t.after = nil, nil, nil
}
