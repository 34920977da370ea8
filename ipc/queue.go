package ipc

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc/frame"
)

// A Config says how a Queue delivers.
type Config struct {
	Messages   int // that wait in memory, at most
	Bytes      int // of those
	MaxMessage int // bytes
	Window     int // messages on the way to one worker; 0: auto
	Attempts   int // deliveries of one message
	Lines      bool
	Timeout    time.Duration // for one message in a worker's hands; 0: none
	Recycle    int           // messages after which a worker is due, +-10 %; 0: never

	// Spool keeps a message that is not handled before the end, and reports
	// whether it could, from any goroutine. Nil: there is no spool.
	Spool func(d *Delivery) bool
	// GivenUp is told of each message that failed every attempt, before its
	// client is, from any goroutine. It may be nil.
	GivenUp func(d *Delivery, reason string)
}

// A Queue is between the sources and the workers. It is the only one who
// chooses a worker for a message.
type Queue struct {
	cfg Config
	log zerolog.Logger

	mu      sync.Mutex
	waiting list
	idle    []*Channel      // fed, nothing in flight; the one used last is at the end, and its caches are warm
	busy    []*Channel      // fed, in flight, and with room for more
	turn    int             // whose turn it is in busy
	closed  bool            // nothing is delivered any more
	flying  int             // messages in flight
	blocked []chan struct{} // submitters that wait for room, first come first served
	watch   []chan struct{} // who waits for the queue to be empty, or for a worker with room

	nextID   atomic.Uint64
	arriving arrivals

	waited, took Histogram       // see QueueStats
	workers      []*workerTotals // by worker
}

// NewQueue returns an empty queue.
func NewQueue(cfg Config, log zerolog.Logger) *Queue {
	return &Queue{cfg: cfg, log: log, arriving: arrivals{limit: cfg.Bytes}}
}

// Submit takes as many of a batch, in order, as there is room for, and returns
// how many. Those that it did not take stay the caller's, who may wait for
// Room.
func (q *Queue) Submit(batch []*Delivery) int {
	if q.cfg.Lines {
		return q.submitLines(batch)
	}
	return q.submit(batch)
}

func (q *Queue) submit(batch []*Delivery) int {
	var touched touched
	at := now()
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		var late list
		for _, d := range batch {
			d.enter(q, at)
			late.push(d)
		}
		q.leave(&late)
		return len(batch)
	}
	taken := 0
	for _, d := range batch {
		d.enter(q, at)
		var c *Channel
		if q.waiting.n == 0 { // else others were first
			c = q.pick(d)
		}
		switch {
		case c != nil:
			c.give(d, at)
			touched.add(c)
		case q.full():
			touched.flush()
			q.mu.Unlock()
			return taken
		default:
			q.waiting.push(d)
		}
		taken++
	}
	touched.flush()
	q.mu.Unlock()
	return taken
}

// enter gives a message its number, the first time.
func (d *Delivery) enter(q *Queue, at time.Duration) {
	if d.id == 0 {
		d.id, d.arrived = q.nextID.Add(1), at
	}
}

// submitLines is Submit where a message must be a line. What is none fails at
// once.
func (q *Queue) submitLines(batch []*Delivery) int {
	for i, d := range batch {
		if bytes.IndexByte(d.Body(), '\n') < 0 {
			if q.submit(batch[i:i+1]) == 0 {
				return i
			}
			continue
		}
		q.finishAlone(d, frame.AppendFailure(nil, frame.NotALine, "the message has an end of line in it, and the workers get one message a line"))
	}
	return len(batch)
}

// touched are the channels that a batch was given to. They are flushed with the
// queue's mutex held, which is let go while writing.
type touched struct {
	some [8]*Channel
	n    int
	more []*Channel
}

func (t *touched) add(c *Channel) {
	if c.touched {
		return
	}
	c.touched = true
	if t.n < len(t.some) {
		t.some[t.n] = c
		t.n++
		return
	}
	t.more = append(t.more, c)
}

func (t *touched) flush() {
	for _, c := range t.some[:t.n] {
		c.touched = false
		c.out.Flush(false)
	}
	for _, c := range t.more {
		c.touched = false
		c.out.Flush(false)
	}
}

// full reports whether the waiting messages take all the room. One that is
// larger than all of it is let in when it is alone.
func (q *Queue) full() bool {
	return q.waiting.n >= q.cfg.Messages || q.waiting.bytes >= q.cfg.Bytes
}

// pick returns a worker with room, or nil: an idle one, rather not the one that
// has just failed with this message; else, if nobody is idle, the next of those
// that work.
func (q *Queue) pick(d *Delivery) *Channel {
	if n := len(q.idle); n > 0 {
		c := q.idle[n-1]
		if c == d.last && n > 1 {
			c = q.idle[n-2]
		}
		return c
	}
	if len(q.busy) == 0 {
		return nil
	}
	q.turn = (q.turn + 1) % len(q.busy)
	return q.busy[q.turn]
}

// refill follows the settling of messages: it fills a channel that
// has room from the queue, and lets submitters go on.
func (q *Queue) refill(c *Channel, at time.Duration) {
	for q.waiting.n > 0 && c.hasRoom() {
		c.give(q.waiting.pop(), at)
	}
	q.unblock()
}

// unblock wakes as many submitters as there is room for.
func (q *Queue) unblock() {
	for len(q.blocked) > 0 && !q.full() {
		close(q.blocked[0])
		q.blocked = q.blocked[1:]
	}
	if len(q.watch) > 0 && (q.waiting.n == 0 || q.flying == 0) {
		for _, w := range q.watch {
			close(w)
		}
		q.watch = nil
	}
}

// Room returns a channel that is closed when it is worth to Submit again.
func (q *Queue) Room() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	ready := make(chan struct{})
	if !q.full() || len(q.idle) > 0 {
		close(ready)
		return ready
	}
	q.blocked = append(q.blocked, ready)
	return ready
}

// again puts messages that were not settled in front of all others, in their
// order, and gives them to whoever has room.
func (q *Queue) again(l *list) {
	if q.closed {
		q.mu.Unlock()
		q.leave(l)
		q.mu.Lock()
		q.unblock()
		return
	}
	q.waiting.prepend(l)
	q.spread()
}

// spread gives waiting messages to workers with room.
func (q *Queue) spread() {
	var touched touched
	at := now()
	for q.waiting.n > 0 {
		c := q.pick(q.waiting.head)
		if c == nil {
			break
		}
		c.give(q.waiting.pop(), at)
		touched.add(c)
	}
	touched.flush()
	q.unblock()
}

// Depth returns how many messages wait, their bytes, and how many are in
// flight.
func (q *Queue) Depth() (waiting, bytes, inFlight int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting.n, q.waiting.bytes, q.flying
}

// Empty returns a channel that is closed when nothing waits and nothing is in
// flight, now or later.
func (q *Queue) Empty() <-chan struct{} {
	return q.watchFor(func() bool { return q.waiting.n == 0 && q.flying == 0 })
}

func (q *Queue) watchFor(cond func() bool) <-chan struct{} {
	done := make(chan struct{})
	go func() { // ends when cond holds, which the end of the pool brings about
		for {
			q.mu.Lock()
			if cond() {
				q.mu.Unlock()
				close(done)
				return
			}
			change := make(chan struct{})
			q.watch = append(q.watch, change)
			q.mu.Unlock()
			<-change
		}
	}()
	return done
}
