package ipc

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc/frame"
)

// A Queue is between the sources and the workers. Nothing else chooses a worker
// for a message.
type Queue struct {
	cfg    Config
	log    zerolog.Logger
	budget Budget
	lastID atomic.Uint64 // of a message

	mu       sync.Mutex
	waiting  list
	idle     []*Channel      // fed, nothing in flight; the one used last is at the end, and its caches are warm
	busy     []*Channel      // fed, in flight, and with room for more
	turn     int             // the last one in busy that was chosen
	paused   bool            // nothing is handed out
	closed   bool            // nothing is delivered any more
	inFlight int             // messages with workers
	blocked  []chan struct{} // submitters that wait for room, first come first served
	watchers []chan struct{} // those that wait for the queue to be empty, or for a worker with room

	waited, handling Histogram       // see QueueStats
	workers          []*workerTotals // by worker
}

// NewQueue returns an empty queue.
func NewQueue(cfg Config, log zerolog.Logger) *Queue {
	if cfg.Format == Lines && cfg.Window == 0 {
		cfg.Window = 1
	}
	cfg.Concurrency = max(cfg.Concurrency, 1)
	return &Queue{cfg: cfg, log: log, budget: Budget{limit: cfg.QueueBytes}}
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
// how many. The rest stays the caller's, which may wait for Room.
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
		var c *Channel
		if q.waiting.n == 0 { // otherwise others were first
			c = q.pick(d)
		}
		switch {
		case c != nil:
			c.give(d, at)
			touched.add(c)
		case q.isFull():
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

// isFull reports whether the waiting messages take all the room. One that is
// larger than all of it is let in when it is alone.
func (q *Queue) isFull() bool {
	return q.waiting.n >= q.cfg.QueueMessages || q.waiting.bytes >= q.cfg.QueueBytes
}

// pick returns a worker with room, or nil: an idle one, if possible not the one
// that has just failed with this message; if none is idle, the next of those that
// work.
func (q *Queue) pick(d *Delivery) *Channel {
	if q.paused {
		return nil
	}
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

// refill gives a channel with room what waits, after it has settled messages, and
// lets submitters go on.
func (q *Queue) refill(c *Channel, at time.Duration) {
	for q.waiting.n > 0 && !q.paused && c.hasRoom() {
		c.give(q.waiting.pop(), at)
	}
	q.wake()
}

// dispatch gives waiting messages to workers with room.
func (q *Queue) dispatch() {
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
	q.wake()
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
	q.waiting.prepend(l)
	q.dispatch()
}

// wake lets as many submitters go on as there is room for.
func (q *Queue) wake() {
	for len(q.blocked) > 0 && !q.isFull() {
		close(q.blocked[0])
		q.blocked = q.blocked[1:]
	}
	if len(q.watchers) > 0 && (q.waiting.n == 0 || q.inFlight == 0) {
		for _, w := range q.watchers {
			close(w)
		}
		q.watchers = nil
	}
}

// Leave says that a flow does not wait for Room any more, and submits nothing.
func (q *Queue) Leave(*Flow) {}

// Room returns a channel that is closed when it is worth for a flow to Submit
// again, which must follow, or Leave.
func (q *Queue) Room(*Flow) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	ready := make(chan struct{})
	if !q.isFull() || len(q.idle) > 0 {
		close(ready)
		return ready
	}
	q.blocked = append(q.blocked, ready)
	return ready
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
	if q.waiting.n == 0 {
		messages, bytes = roomOf(q.idle, limit)
		if messages < limit {
			m, b := roomOf(q.busy, limit-messages)
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
func roomOf(channels []*Channel, limit int) (messages, bytes int) {
	for _, c := range channels {
		messages += c.win.size - c.flight.n
		bytes += windowBytes - c.flight.bytes
		if messages >= limit {
			return limit, bytes
		}
	}
	return messages, bytes
}

// Crowded reports whether messages wait for workers.
func (q *Queue) Crowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.closed && q.waiting.n > 0
}

// chargeAttempt notes that a delivery failed, and reports whether the message is
// to be delivered again.
func (q *Queue) chargeAttempt(d *Delivery, why string) (again bool) {
	d.attempts++
	d.text = why
	if d.attempts < q.cfg.Attempts {
		d.source.Retried.Add(1)
		return true
	}
	return false
}

// retry delivers a message again, or gives it up.
func (q *Queue) retry(d *Delivery, why string) {
	if !q.chargeAttempt(d, why) {
		q.giveUp(d)
		return
	}
	var one list
	one.push(d)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.requeue(&one)
}

// GiveUp ends a message that has had all its attempts before it was submitted.
func (q *Queue) GiveUp(d *Delivery, why string) {
	d.text = why
	d.assignID(q, now())
	q.giveUp(d)
}

// giveUp ends a message that failed every attempt.
func (q *Queue) giveUp(d *Delivery) {
	reason := fmt.Sprintf("after %d attempts: %s", d.attempts, d.text)
	if d.attempts == 1 {
		reason = d.text
	}
	q.log.Warn().Uint64("id", d.id).Str("source", d.source.Name).Int("bytes", len(d.Body())).
		Int("attempts", d.attempts).Str("why", d.text).Msg("message given up")
	d.source.GivenUp.Add(1)
	if q.cfg.GivenUp != nil {
		q.cfg.GivenUp(d, reason)
	}
	q.settleAlone(d, frame.AppendFailure(nil, frame.GivenUp, reason))
}

// Reject ends a message that must not be submitted, such as one that is too
// long. It is put where the given-up ones are, or lost.
func (q *Queue) Reject(d *Delivery, code frame.Code, why string) {
	d.assignID(q, now())
	if q.cfg.GivenUp != nil {
		q.cfg.GivenUp(d, why)
	} else {
		d.source.Lost.Add(1)
	}
	q.settleAlone(d, frame.AppendFailure(nil, code, why))
}

// settleAlone settles one message.
func (q *Queue) settleAlone(d *Delivery, reply []byte) {
	origin := d.origin
	q.settle(d, reply)
	origin.Flush()
}

// settle settles a message, which is its origin's from then on. The caller
// flushes the origin.
func (q *Queue) settle(d *Delivery, reply []byte) {
	if frame.IsFailure(reply) {
		d.source.Failed.Add(1)
	} else {
		d.source.Handled.Add(1)
	}
	d.origin.Settled(d, reply)
}

// doneInFlight notes that a message which a worker has answered with a failure
// is settled, or waits again. Until then it was in flight, so that a drain waits
// for it.
func (q *Queue) doneInFlight() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inFlight--
	q.wake()
}

// Close ends the delivery: what waits, and what comes back from its workers
// later, is not handled any more. It is kept in the spool if there is one, or
// lost, and its client is told.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	left := q.waiting
	q.waiting = list{}
	q.wake()
	q.mu.Unlock()
	q.abandon(&left)
}

// abandon ends messages that will not be handled here.
func (q *Queue) abandon(l *list) {
	kept := q.spool(l)
	for i := 0; l.n > 0; i++ {
		d := l.pop()
		switch {
		case kept[i]:
			d.source.Spooled.Add(1)
			q.settleAlone(d, frame.AppendFailure(nil, frame.Spooled, "kept; it is handled after the next start, do not send it again"))
		case d.last == nil:
			d.source.Lost.Add(1)
			q.settleAlone(d, frame.AppendFailure(nil, frame.Stopping, "poolinit stopped before a worker was free; send it again"))
		default:
			d.source.Lost.Add(1)
			q.settleAlone(d, frame.AppendFailure(nil, frame.Interrupted, "poolinit stopped while a worker had the message"))
		}
	}
}

// spoolers is how many messages are brought to the spool at a time. Each waits
// for the disk, which writes many as fast as one.
const spoolers = 16

// spool brings messages to the spool, if there is one, and reports which of them
// it has taken.
func (q *Queue) spool(l *list) []bool {
	kept := make([]bool, l.n)
	if q.cfg.Spool == nil {
		return kept
	}
	all := make([]*Delivery, 0, l.n)
	for d := l.head; d != nil; d = d.next {
		all = append(all, d)
	}
	var (
		next  atomic.Int64
		group sync.WaitGroup
	)
	for range min(spoolers, len(all)) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(all); i = int(next.Add(1)) - 1 {
				kept[i] = q.cfg.Spool(all[i])
			}
		})
	}
	group.Wait()
	return kept
}

// Depth returns how many messages wait, their bytes, and how many are in
// flight.
func (q *Queue) Depth() (waiting, bytes, inFlight int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting.n, q.waiting.bytes, q.inFlight
}

// Empty returns a channel that is closed when nothing waits and nothing is in
// flight, now or later.
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
	if q.waiting.n == 0 && q.inFlight == 0 {
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
		Messages: q.waiting.n, Bytes: q.waiting.bytes, InFlight: q.inFlight, Idle: len(q.idle),
		Waiting: q.waited, Handling: q.handling,
		Workers: make([]WorkerStats, max(workers, len(q.workers))),
	}
	at := now()
	if d := q.waiting.head; d != nil {
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
