package ipc

import (
	"bytes"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ratelog"
)

// A Queue is between the sources and the workers. Nothing else chooses a worker
// for a message.
type Queue struct {
	cfg    Config
	log    zerolog.Logger
	gaveUp *ratelog.Log // messages
	budget Budget       // of messages that arrive
	reads  Budget       // of replies that workers write
	debts  Debts
	lastID atomic.Uint64 // of a message

	mu         sync.Mutex
	backlog    backlog
	retries    retries
	idle       []*Channel      // fed, nothing in flight; the one used last is at the end, and its caches are warm
	busy       []*Channel      // fed, in flight, and perhaps with room for more
	last       []*Channel      // fed when no other has room, one message at a time: see Channel.isLast
	turn       int             // the last one in busy that was chosen
	serving    int             // channels that are fed
	failing    int             // of those, the ones that fail everything
	reserved   *Channel        // gets nothing until it has nothing in hand, and then a suspect
	again      *time.Timer     // for messages that wait for another worker than a free one
	paused     bool            // nothing is handed out
	closed     bool            // nothing is delivered any more
	inFlight   int             // messages with workers
	watchers   []chan struct{} // those that wait for the queue to be empty, or for a worker with room
	answered   time.Duration   // when a worker last answered; 0: never
	endedAfter int             // messages that the last worker had answered which left one unread

	waited, handling Histogram       // see QueueStats
	workers          []*workerTotals // by worker
}

// mostGivenUp is how many messages that are given up have a line of their own in
// ten seconds.
const mostGivenUp = 20

// NewQueue returns an empty queue.
func NewQueue(cfg Config, log zerolog.Logger) *Queue {
	if cfg.Format == Lines && cfg.Window == 0 {
		cfg.Window = 1 // an answer of two lines would be the next message's
	}
	if cfg.Format != Tagged {
		cfg.Concurrency = 1
	}
	cfg.Concurrency = max(cfg.Concurrency, 1)
	if cfg.ReplyBytes == 0 {
		cfg.ReplyBytes = DefaultBytes
	}
	q := &Queue{cfg: cfg, log: log, gaveUp: ratelog.Several(log, zerolog.WarnLevel, mostGivenUp)}
	q.budget.limit, q.reads.limit, q.debts.limit = cfg.QueueBytes, cfg.ReplyBytes/2, int64(cfg.ReplyBytes)
	q.backlog.maxMessages, q.backlog.maxBytes, q.backlog.maxAside = cfg.QueueMessages, cfg.QueueBytes, cfg.ReplyBytes/4
	q.retries.cfg = &q.cfg
	return q
}

// NewChannel returns a channel for a process of a worker, and the file that it
// gets as its end. The caller closes the file when the worker has been started;
// Close ends the channel.
func (q *Queue) NewChannel(worker int) (*Channel, *os.File, error) { return newChannel(q, worker) }

// MaxMessage is how long a message may be, in bytes.
func (q *Queue) MaxMessage() int { return q.cfg.MaxMessage }

// Attempts is how often a message is delivered, at most.
func (q *Queue) Attempts() int { return q.cfg.Attempts }

// Budget is for large messages that are still arriving.
func (q *Queue) Budget() *Budget { return &q.budget }

// Submit takes as many of a batch, in order, as there is room for, and returns
// how many. The rest stays the caller's, which may wait for Room. All of a batch
// are of one flow.
func (q *Queue) Submit(batch []*Delivery) int {
	if q.cfg.Format == Lines {
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
			d.assignID(q, at)
			late.push(d)
		}
		q.abandon(&late)
		return len(batch)
	}
	taken := 0
	for _, d := range batch {
		d.assignID(q, at)
		if !q.giveNew(d, &touched, at) && !q.wait(d, at) {
			break
		}
		taken++
	}
	if t := batch[0].flow.turn; t != nil {
		t.left = len(batch) - taken
		if t.left == 0 && t.granted > 0 { // it has no use for these
			q.backlog.takeBack(t, t.granted)
			q.backlog.release(t)
			q.wake()
		}
	}
	touched.flush()
	if q.backlog.ready > 0 && q.hasPlaces() {
		q.dispatch()
	}
	q.mu.Unlock()
	return taken
}

// giveNew gives a message to a worker, if none waits that goes before it.
func (q *Queue) giveNew(d *Delivery, touched *touched, at time.Duration) bool {
	if q.backlog.ready > 0 || q.backlog.suspects.n > 0 || d.flow.isHeld {
		return false
	}
	c := q.pick(nil, at)
	if c == nil {
		return false
	}
	if d.flow.turn != nil {
		q.backlog.leave(d.flow)
	}
	c.give(d, at)
	touched.add(c)
	return true
}

// wait has a new message wait, if there is room.
func (q *Queue) wait(d *Delivery, at time.Duration) bool {
	if d.flow.isHeld || !q.backlog.admits(d) {
		return false
	}
	q.backlog.push(d)
	if lane := d.flow.lane; lane.Expires > 0 && lane.expiry.add(d) {
		lane.expiry.start(q, lane, at)
	}
	return true
}

// submitLines is Submit where a message must be a line. One that is not fails at
// once.
func (q *Queue) submitLines(batch []*Delivery) int {
	for i, d := range batch {
		if bytes.IndexByte(d.Body(), '\n') < 0 {
			if q.submit(batch[i:i+1]) == 0 {
				return i
			}
			continue
		}
		q.settleAlone(d, frame.AppendFailure(nil, frame.NotALine, "the message has an end of line in it, and the workers get one message a line"))
	}
	return len(batch)
}

// hasPlaces reports whether a worker may have room.
func (q *Queue) hasPlaces() bool {
	return !q.paused && len(q.idle)+len(q.busy)+len(q.last) > 0
}

// pick returns a worker with room other than the given one, or nil: an idle one;
// if none is idle, the next of those that work and are not stalled; one of those
// that are fed last.
func (q *Queue) pick(not *Channel, at time.Duration) *Channel {
	if q.paused {
		return nil
	}
	if c := topOf(q.idle, not); c != nil {
		return c
	}
	for len(q.busy) > 0 {
		q.turn = (q.turn + 1) % len(q.busy)
		c := q.busy[q.turn]
		switch {
		case c.isStalled(at):
			c.moveTo(nil) // until it answers
		case c != not:
			return c
		case len(q.busy) == 1:
			return topOf(q.last, not)
		}
	}
	return topOf(q.last, not)
}

func topOf(channels []*Channel, not *Channel) *Channel {
	n := len(channels)
	switch {
	case n == 0:
		return nil
	case channels[n-1] != not:
		return channels[n-1]
	case n > 1:
		return channels[n-2]
	}
	return nil
}

// refill gives a channel with room what waits, after it has settled messages, and
// lets submitters go on.
func (q *Queue) refill(c *Channel, at time.Duration) {
	q.backlog.turnLength = c.turnLength()
	if q.backlog.suspects.n > 0 && c.serving && !q.paused {
		q.refillAlone(c, at)
		q.unreserve()
	}
	for q.backlog.ready > 0 && !q.paused && c.hasRoom(at) && !q.backlog.wouldSplit(c) {
		d := q.backlog.next(c, q.serving > 1, at)
		if d == nil {
			q.lookAgain()
			break
		}
		c.give(d, at)
	}
	q.wake()
}

// refillAlone gives a channel a suspect if it has nothing in hand. Otherwise, if no
// other does so, it gets nothing until then.
func (q *Queue) refillAlone(c *Channel, at time.Duration) {
	switch {
	case c.flight.n == 0:
		d := q.backlog.suspects.head
		q.backlog.takeAgain(d)
		c.isAlone = true
		c.give(d, at)
	case q.reserved == nil && !c.isAlone:
		q.reserved = c
	}
}

// dispatch gives waiting messages to workers with room. With the mutex held, which
// it may release for a while.
func (q *Queue) dispatch() {
	var touched touched
	at := now()
	q.dispatchSuspects(&touched, at)
	q.unreserve()
	for q.backlog.ready > 0 {
		c := q.pick(nil, at)
		if c == nil || q.backlog.wouldSplit(c) {
			break
		}
		d := q.backlog.next(c, q.serving > 1, at)
		if d == nil { // it has failed with all that could be its next
			if c = q.pick(c, at); c != nil {
				d = q.backlog.next(c, true, at)
			}
			if d == nil {
				q.lookAgain()
				break
			}
		}
		c.give(d, at)
		touched.add(c)
	}
	touched.flush()
	q.wake()
}

// dispatchSuspects gives each suspect to a worker that has nothing in hand, and
// has one work off what it has if there is none.
func (q *Queue) dispatchSuspects(touched *touched, at time.Duration) {
	for q.backlog.suspects.n > 0 && !q.paused {
		c := topOf(q.idle, nil)
		if c == nil {
			c = topOf(q.last, nil)
		}
		if c == nil {
			if n := len(q.busy); n > 0 && q.reserved == nil {
				c = q.busy[n-1]
				q.reserved = c
				c.refile()
			}
			return
		}
		q.refillAlone(c, at)
		touched.add(c)
	}
}

// unreserve has the reserved worker go on if all suspects went to others.
func (q *Queue) unreserve() {
	if c := q.reserved; c != nil && q.backlog.suspects.n == 0 {
		q.reserved = nil
		c.refile()
	}
}

// lookAgain has messages that wait for another worker than a free one go to that
// one after a while.
func (q *Queue) lookAgain() {
	if q.again == nil {
		q.again = time.AfterFunc(avoidFor, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.again = nil
			q.dispatch()
		})
	}
}

// requeue puts messages that were not settled in front of all others, in their
// order, and dispatches. With the mutex held, which it may release for a while.
func (q *Queue) requeue(l *list) {
	if q.closed {
		q.mu.Unlock()
		q.abandon(l)
		q.mu.Lock()
		q.wake()
		return
	}
	at := now()
	for l.n > 0 {
		d := l.tail
		l.remove(d)
		d.again = at
		q.backlog.pushAgain(d, true)
	}
	q.dispatch()
}

// wake lets as many submitters go on as there is room for.
func (q *Queue) wake() {
	if q.backlog.waiters > 0 {
		q.backlog.grant()
		if t := q.backlog.firstInLine(); t != nil && (q.closed || q.backlog.ready == 0 && q.hasPlaces()) {
			q.backlog.tell(t) // what it has does not have to wait
		}
	}
	if len(q.watchers) > 0 && (q.backlog.ready == 0 || q.inFlight == 0) {
		for _, w := range q.watchers {
			close(w)
		}
		q.watchers = nil
	}
}

// Room returns a channel that is closed when it is worth for a flow to Submit
// again. That, or Leave, must follow: room is kept for it.
func (q *Queue) Room(f *Flow) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	room := q.backlog.await(f)
	q.wake()
	return room
}

// Leave says that a flow does not wait for Room any more, and submits nothing.
func (q *Queue) Leave(f *Flow) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.backlog.leave(f)
	q.wake()
}

// Free returns how many messages, of how many bytes, workers have room for
// while nothing waits, at most limit. If that is none, more is closed when it is
// worth asking again. It is for sources that leave the rest where it is. What
// two of them were told at the same time waits in the queue.
func (q *Queue) Free(limit int) (messages, bytes int, more <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, 0, nil
	}
	if q.backlog.ready == 0 && !q.paused {
		at := now()
		for _, channels := range [][]*Channel{q.idle, q.busy, q.last} {
			m, b := roomOf(channels, limit-messages, at)
			messages, bytes = messages+m, bytes+b
		}
	}
	if messages > 0 {
		return messages, bytes, nil
	}
	change := make(chan struct{})
	q.watchers = append(q.watchers, change)
	return 0, 0, change
}

// roomOf returns how many messages, of how many bytes, channels have room for, at
// most limit.
func roomOf(channels []*Channel, limit int, at time.Duration) (messages, bytes int) {
	for _, c := range channels {
		if messages >= limit {
			return limit, bytes
		}
		if c.hasRoom(at) {
			messages += c.most() - c.flight.n
			bytes += windowBytes - min(c.flight.bytes, windowBytes-1)
		}
	}
	return min(messages, limit), bytes
}

// Crowded reports whether messages wait for workers.
func (q *Queue) Crowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.closed && q.backlog.ready > 0
}

// Depth returns how many messages wait, their bytes, and how many are in
// flight.
func (q *Queue) Depth() (waiting, bytes, inFlight int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.backlog.n, q.backlog.bytes, q.inFlight
}

// Empty returns a channel that is closed when nothing waits and nothing is in
// flight, now or later. What waits does not count in a queue that is paused and
// knows its end (Until).
func (q *Queue) Empty() <-chan struct{} {
	empty := make(chan struct{})
	go func() { // ends when the queue is empty, which the end of the pool brings about
		defer close(empty)
		for change := q.nextChange(); change != nil; change = q.nextChange() {
			<-change
		}
	}()
	return empty
}

// nextChange returns nil if the queue is empty, or a channel that is closed when
// that is worth asking again.
func (q *Queue) nextChange() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	stuck := q.paused && q.retries.until > 0 // nothing is handed out before the end
	if q.inFlight == 0 && (q.backlog.n == 0 || stuck) {
		return nil
	}
	change := make(chan struct{})
	q.watchers = append(q.watchers, change)
	return change
}

// Stats returns a picture of the queue and of the given number of workers.
func (q *Queue) Stats(workers int) QueueStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := QueueStats{
		Messages: q.backlog.n, Bytes: q.backlog.bytes, InFlight: q.inFlight, Idle: len(q.idle),
		Paused: q.paused, Delayed: len(q.retries.due), Isolated: q.backlog.suspects.n,
		Held:    q.backlog.n - q.backlog.ready - q.backlog.suspects.n - len(q.retries.due),
		Later:   q.backlog.n - q.backlog.ready,
		Replies: q.debts.Total(),
		Waiting: q.waited, Handling: q.handling,
		Workers: make([]WorkerStats, max(workers, len(q.workers))),
	}
	if q.paused {
		s.Later = q.backlog.n
	}
	at := now()
	if d := q.backlog.oldest(); d != nil {
		s.Oldest, s.OldestID = at-d.arrived, d.id
	}
	for id, t := range q.workers {
		s.Workers[id] = t.stats(at)
	}
	return s
}

// totals returns the sums of a worker. With the mutex held.
func (q *Queue) totals(worker int) *workerTotals {
	for len(q.workers) <= worker {
		q.workers = append(q.workers, new(workerTotals))
	}
	return q.workers[worker]
}
