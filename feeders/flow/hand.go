package flow

import (
	"container/heap"
	"time"
)

// place is where an entry is.
type place int

const (
	waiting  place = iota // in lane or ready queue: not sent yet
	open                  // the pool has it
	held                  // waits for its next attempt
	settling              // its outcome is on the way to the broker
)

// An entry is a message in hand: taken from the broker, and neither settled nor
// given back.
type entry struct {
	m        *Message
	tag      uint64
	attempt  int // this delivery's, from 1
	place    place
	taken    time.Time
	answered time.Time // when the last answer came
	lane     *lane     // that it holds, or waits in; nil: none
	due      time.Time // when held
	index    int       // in the heap, when held
	again    bool      // when settling: it was delivered again
}

// hand is all entries.
type hand struct {
	byTag map[uint64]*entry
	byID  map[string]*entry
	next  uint64 // the last tag
	count [settling + 1]int
}

func newHand() hand {
	return hand{byTag: map[uint64]*entry{}, byID: map[string]*entry{}}
}

// find returns the entry of an earlier delivery of the same message.
func (h *hand) find(m *Message) *entry {
	if m.ID == "" {
		return nil
	}
	return h.byID[m.ID]
}

func (h *hand) add(m *Message, now time.Time) *entry {
	h.next++ // at a million a second the tags last for 285 years
	e := &entry{m: m, tag: h.next, attempt: max(m.Attempt, 1), taken: now, index: -1}
	h.byTag[e.tag] = e
	if m.ID != "" {
		h.byID[m.ID] = e
	}
	h.count[waiting]++
	return e
}

func (h *hand) move(e *entry, to place) {
	h.count[e.place]--
	h.count[to]++
	e.place = to
}

func (h *hand) drop(e *entry) {
	if h.byTag[e.tag] != e {
		return // twice
	}
	h.count[e.place]--
	delete(h.byTag, e.tag)
	if e.m.ID != "" && h.byID[e.m.ID] == e {
		delete(h.byID, e.m.ID)
	}
}

// size is how many messages are in hand.
func (h *hand) size() int { return len(h.byTag) }

// oldest returns when the oldest entry was taken; zero if there is none.
func (h *hand) oldest() (t time.Time) {
	for _, e := range h.byTag {
		if t.IsZero() || e.taken.Before(t) {
			t = e.taken
		}
	}
	return t
}

// A lane holds messages that go one after the other: one is on its way or held, the
// others wait in it.
type lane struct {
	name  string
	queue fifo
}

// lanes are those that have a message.
type lanes map[string]*lane

// enter puts an entry into the lane of that name, and reports whether it may go now.
func (l lanes) enter(e *entry, name string) bool {
	if busy := l[name]; busy != nil {
		e.lane = busy
		busy.queue.push(e)
		return false
	}
	e.lane = &lane{name: name}
	l[name] = e.lane
	return true
}

// leave frees the lane that an entry holds, and returns the one that may go now, or
// nil.
func (l lanes) leave(e *entry) *entry {
	lane := e.lane
	if lane == nil {
		return nil
	}
	e.lane = nil
	next := lane.queue.pop()
	if next == nil {
		delete(l, lane.name)
	}
	return next
}

// A fifo is a queue of entries.
type fifo struct {
	list []*entry
	head int
}

func (q *fifo) push(e *entry) { q.list = append(q.list, e) }

// pushFront puts an entry before all others.
func (q *fifo) pushFront(e *entry) {
	if q.head > 0 {
		q.head--
		q.list[q.head] = e
		return
	}
	q.list = append([]*entry{e}, q.list...)
}

func (q *fifo) size() int { return len(q.list) - q.head }

// first returns the next entry without taking it, or nil.
func (q *fifo) first() *entry {
	if q.size() == 0 {
		return nil
	}
	return q.list[q.head]
}

// pop takes the next entry, or nil.
func (q *fifo) pop() *entry {
	e := q.first()
	if e == nil {
		return nil
	}
	q.list[q.head] = nil
	if q.head++; q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
	} else if q.head > 64 && q.head > len(q.list)/2 {
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	return e
}

// delays are the held entries, the next one due first.
type delays []*entry

func (d delays) Len() int           { return len(d) }
func (d delays) Less(i, j int) bool { return d[i].due.Before(d[j].due) }
func (d delays) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push and Pop are heap's.
func (d *delays) Push(x any) {
	e := x.(*entry)
	e.index = len(*d)
	*d = append(*d, e)
}

func (d *delays) Pop() any {
	last := len(*d) - 1
	e := (*d)[last]
	(*d)[last], e.index = nil, -1
	*d = (*d)[:last]
	return e
}

func (d *delays) add(e *entry, due time.Time) {
	e.due = due
	heap.Push(d, e)
}

// ready takes the entry that is due, or nil.
func (d *delays) ready(now time.Time) *entry {
	if len(*d) == 0 || (*d)[0].due.After(now) {
		return nil
	}
	return heap.Pop(d).(*entry)
}

// all takes every entry.
func (d *delays) all() []*entry {
	list := *d
	*d = nil
	return list
}
