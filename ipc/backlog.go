package ipc

import (
	"container/heap"
	"math/bits"
	"time"
)

// A backlog is the messages that wait. What it does for one message takes the
// same time however many there are, and no memory.
//
// The highest priority goes first. Within it, messages that are delivered again
// go before new ones, and of the new ones each flow has its turn: before a message
// go at most one of each other flow. The queue's mutex guards it.
type backlog struct {
	maxMessages, maxBytes int
	maxAside              int

	levels   [MaxPriority + 1]level
	some     uint16 // of the levels that have messages, as bits
	suspects list   // each is to be delivered alone
	ready    int    // messages that may be delivered now, without suspects
	n        int    // all that wait, retries that wait for their time included
	bytes    int    // of those

	turnLength int   // of the worker that was fed last
	held       ring  // flows whose messages are not handed out
	aside      aside // of their messages, those that do not count for the limits

	waiters               int // flows that wait for room
	granted, grantedBytes int // kept for flows that were told that there is room
	spare                 *turn
}

// A level is the messages of one priority.
type level struct {
	again  list // had a worker before
	ring   ring
	hungry line // flows that wait for room and have no message here
	others line
}

// add notes that a message waits which is kept elsewhere. remove is its contrary.
func (b *backlog) add(d *Delivery) {
	b.n++
	b.bytes += d.Size()
}

func (b *backlog) remove(d *Delivery) {
	b.n--
	b.bytes -= d.Size()
	if d.isAside {
		b.aside.remove(d)
	}
}

func (b *backlog) level(d *Delivery) *level { return &b.levels[d.flow.lane.Priority] }

// push adds a new message.
func (b *backlog) push(d *Delivery) {
	t := b.turnOf(d.flow)
	if t.list.n == 0 {
		b.level(d).ring.push(t)
		if t.line == &b.level(d).hungry {
			b.queueUp(t)
		}
	}
	t.list.push(d)
	b.add(d)
	b.ready++
	b.some |= 1 << d.flow.lane.Priority
}

// pushAgain adds a message that had a worker before: before all others, or behind
// those that had one, too.
func (b *backlog) pushAgain(d *Delivery, first bool) {
	d.isAgain = true
	b.add(d)
	if d.isSuspect {
		b.suspects.push(d)
		return
	}
	again := &b.level(d).again
	if first {
		var one list
		one.push(d)
		again.prepend(&one)
	} else {
		again.push(d)
	}
	b.ready++
	b.some |= 1 << d.flow.lane.Priority
}

// next takes out the message whose turn it is, for a worker; or returns nil. With
// another worker there, it leaves that one what this worker has failed with.
func (b *backlog) next(c *Channel, another bool, at time.Duration) *Delivery {
	for some := b.some; some != 0; {
		i := bits.Len16(some) - 1
		some &^= 1 << i
		l := &b.levels[i]
		d := l.next(c, another, at)
		if d != nil {
			l.again.remove(d)
			b.taken(d)
			return d
		}
		if t := l.ring.first; t != nil {
			d := t.list.head
			if t.run++; t.run >= c.turnLength() {
				t.run = 0
				l.ring.remove(t)
				l.ring.push(t)
			}
			b.takeNew(d)
			return d
		}
	}
	return nil
}

// wouldSplit reports whether the worker, which has more than half of its window in
// hand, has room for a part only of the turn that comes next. It gets that turn
// whole, after its next answers: so the replies of a turn share a write.
func (b *backlog) wouldSplit(c *Channel) bool {
	room := c.most() - c.flight.n
	length := c.turnLength()
	if c.flight.n == 0 || room >= length {
		return false
	}
	l := &b.levels[max(0, bits.Len16(b.some)-1)]
	t := l.ring.first
	return l.again.n == 0 && t != nil && min(t.list.n, length-t.run) > room
}

// maxSkipped bounds how many messages are skipped because they are not for this
// worker. The other workers take those first.
const maxSkipped = 8

// avoidFor is how long a message waits for another worker than one that has failed
// with it, that has not shown that it works, or that is about to end.
const avoidFor = 500 * time.Millisecond

func (l *level) next(c *Channel, another bool, at time.Duration) *Delivery {
	d := l.again.head
	for i := 0; d != nil && i < maxSkipped; i++ {
		avoids := another && (d.last == c || d.attempts > 0 && !c.proven) || d.free > 0 && c.mayEnd()
		if !avoids || at-d.again >= avoidFor {
			return d
		}
		d = d.next
	}
	return nil
}

// takeNew takes out a message that no worker had.
func (b *backlog) takeNew(d *Delivery) {
	t := d.flow.turn
	t.list.remove(d)
	if d.flow.lane.Expires > 0 {
		d.flow.lane.expiry.remove(d)
	}
	if t.list.n == 0 {
		b.ringOf(t).remove(t)
		if t.line != nil { // it has none now: it is first to get room
			b.queueUp(t)
		}
		b.release(t)
	}
	b.taken(d)
}

func (b *backlog) taken(d *Delivery) {
	b.remove(d)
	if d.isAgain || !d.flow.isHeld {
		b.ready--
	}
	b.noteEmpty(d.flow.lane.Priority)
}

// takeAgain takes out a message that had a worker before.
func (b *backlog) takeAgain(d *Delivery) {
	if d.isSuspect {
		b.suspects.remove(d)
		b.remove(d)
		return
	}
	b.level(d).again.remove(d)
	b.taken(d)
}

// heads returns the first message of each list.
func (b *backlog) heads() (heads []*Delivery) {
	add := func(d *Delivery) {
		if d != nil {
			heads = append(heads, d)
		}
	}
	add(b.suspects.head)
	for i := range b.levels {
		l := &b.levels[len(b.levels)-1-i]
		add(l.again.head)
		for t := l.ring.first; t != nil; t = t.next {
			add(t.list.head)
		}
	}
	for t := b.held.first; t != nil; t = t.next {
		add(t.list.head)
	}
	return heads
}

// all yields the messages that wait, but for retries that wait for their time.
func (b *backlog) all(yield func(*Delivery) bool) {
	for _, d := range b.heads() {
		for ; d != nil; d = d.next {
			if !yield(d) {
				return
			}
		}
	}
}

// byAge is all in the order of the messages' numbers, if each list has that order.
func (b *backlog) byAge(yield func(*Delivery) bool) {
	heads := ageHeap(b.heads())
	heap.Init(&heads)
	for len(heads) > 0 && yield(heads[0]) {
		if heads[0] = heads[0].next; heads[0] == nil {
			heads[0], heads = heads[len(heads)-1], heads[:len(heads)-1]
		}
		if len(heads) > 0 {
			heap.Fix(&heads, 0)
		}
	}
}

// An ageHeap has the message with the lowest number on top. It implements
// heap.Interface.
type ageHeap []*Delivery

func (h ageHeap) Len() int           { return len(h) }
func (h ageHeap) Less(i, j int) bool { return h[i].id < h[j].id }
func (h ageHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h ageHeap) Push(any)           {} // nothing is added
func (h ageHeap) Pop() any           { return nil }

// oldest returns the message that has waited longest of those that may be
// delivered now, or nil.
func (b *backlog) oldest() (oldest *Delivery) {
	older := func(d *Delivery) {
		if d != nil && (oldest == nil || d.id < oldest.id) {
			oldest = d
		}
	}
	for i := range b.levels {
		l := &b.levels[i]
		for d := l.again.head; d != nil; d = d.next {
			older(d)
		}
		for t := l.ring.first; t != nil; t = t.next {
			older(t.list.head)
		}
	}
	return oldest
}

// isFull reports whether there is no room for a message of this size. One that is
// larger than all of the room is let in when it is alone.
func (b *backlog) isFull(size int) bool {
	n := b.n - b.aside.n + b.granted
	return n >= b.maxMessages || n > 0 && b.bytes-b.aside.bytes+b.grantedBytes+size > b.maxBytes
}

// admits reports whether there is room for a new message, and nobody else's turn
// to use it. If not, its flow waits for so much.
func (b *backlog) admits(d *Delivery) bool {
	t := d.flow.turn
	if t != nil && t.granted > 0 {
		b.takeBack(t, 1)
	} else if b.isPromised(d.flow) {
		b.turnOf(d.flow).wants = d.Size()
		return false
	}
	if b.isFull(d.Size()) {
		b.turnOf(d.flow).wants = d.Size()
		return false
	}
	return true
}

// isPromised reports whether the next room belongs to another flow: one that has
// no message here, or that waits already.
func (b *backlog) isPromised(f *Flow) bool {
	if b.waiters == 0 {
		return false
	}
	hasNone := f.turn == nil || f.turn.list.n == 0
	for i := range b.levels {
		l := &b.levels[i]
		above := i >= f.lane.Priority
		if l.hungry.first != nil && (above || !hasNone) || l.others.first != nil && above && !hasNone {
			return true
		}
	}
	return false
}

// await returns a channel that is closed when there is room for the flow.
func (b *backlog) await(f *Flow) <-chan struct{} {
	t := b.turnOf(f)
	if t.room == nil {
		t.room = make(chan struct{})
		b.waiters++
		b.queueUp(t)
	}
	return t.room
}

// queueUp puts a flow in the line where it belongs.
func (b *backlog) queueUp(t *turn) {
	if t.line != nil {
		t.line.remove(t)
	}
	l := &b.levels[t.flow.lane.Priority]
	if t.list.n == 0 {
		l.hungry.push(t)
	} else {
		l.others.push(t)
	}
}

// firstInLine returns the flow that gets the next room, or nil.
func (b *backlog) firstInLine() *turn {
	for i := range b.levels {
		if t := b.levels[len(b.levels)-1-i].hungry.first; t != nil {
			return t
		}
	}
	for i := range b.levels {
		if t := b.levels[len(b.levels)-1-i].others.first; t != nil {
			return t
		}
	}
	return nil
}

// grant tells flows that there is room, and keeps it for them: for as many
// messages as one turn has, so that those of a flow stay together and their
// replies share a write. With slow workers that is one. Flows that have messages
// here are told only when an eighth of all the room is free.
func (b *backlog) grant() {
	n, bytes := b.n-b.aside.n, b.bytes-b.aside.bytes
	free := b.maxMessages - n - b.granted
	roomy := free >= max(1, b.maxMessages/8) && (n == 0 || b.maxBytes-bytes-b.grantedBytes >= b.maxBytes/8)
	for t := b.firstInLine(); t != nil; t = b.firstInLine() {
		places := b.share(t)
		if t.list.n > 0 && !roomy || b.isFull(t.wants) || places > 1 && b.n+b.granted+places > b.maxMessages {
			return
		}
		t.granted, t.each = 1, t.wants
		b.granted++
		b.grantedBytes += t.each
		for t.granted < places && !b.isFull(t.each) {
			t.granted++
			b.granted++
			b.grantedBytes += t.each
		}
		b.tell(t)
	}
}

// share is how many places a flow is told of at a time: those of a turn, but not
// more than it has messages, nor than an eighth of all.
func (b *backlog) share(t *turn) int {
	return max(1, min(b.turnLength, t.left, b.maxMessages/8))
}

// tell ends a flow's wait for room.
func (b *backlog) tell(t *turn) {
	t.line.remove(t)
	close(t.room)
	t.room = nil
	b.waiters--
	b.release(t)
}

// takeBack takes back places that were kept for a flow.
func (b *backlog) takeBack(t *turn, places int) {
	t.granted -= places
	b.granted -= places
	b.grantedBytes -= places * t.each
}

// leave ends a flow's wait for room, and its grant.
func (b *backlog) leave(f *Flow) {
	t := f.turn
	if t == nil {
		return
	}
	b.takeBack(t, t.granted)
	if t.room != nil {
		b.tell(t)
		return
	}
	b.release(t)
}

// turnOf returns the turn of a flow, which it gets if it has none.
func (b *backlog) turnOf(f *Flow) *turn {
	if f.turn == nil {
		t := b.spare
		if t == nil {
			t = new(turn)
		} else {
			b.spare = t.next
		}
		*t = turn{flow: f}
		f.turn = t
	}
	return f.turn
}

// release takes a turn back from a flow that needs none any more.
func (b *backlog) release(t *turn) {
	if t.list.n > 0 || t.room != nil || t.granted > 0 {
		return
	}
	t.flow.turn = nil
	*t = turn{next: b.spare}
	b.spare = t
}
