package ipc

import (
	"slices"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
)

// QueueStats is a picture of a Queue.
type QueueStats struct {
	Messages, Bytes int           // that wait
	Oldest          time.Duration // the age of the first of them; 0: none waits
	OldestID        uint64        // its number; 0: none waits
	InFlight        int           // messages with workers
	Idle            int           // workers that are fed and have nothing in hand

	Waiting  Histogram // from the arrival of a message until the worker that answered it began with it
	Handling Histogram // from there to its answer

	Workers []WorkerStats // by worker
}

// WorkerStats is what one worker, that is all processes that were in its place,
// has done with messages.
type WorkerStats struct {
	Handled uint64        // messages answered, and not with a failure
	Failed  uint64        // answered with a failure, or taken back from it as failed
	Busy    time.Duration // time with messages in hand, until now

	// Of the process that is fed now, or finishes.
	InHand int           // messages
	Held   time.Duration // how long the oldest of them has been in its hands
	Window int           // 0: there is no such process
}

// workerTotals are the sums over a worker's processes.
type workerTotals struct {
	handled, failed uint64
	busy            time.Duration
	channels        []*Channel // that are open: more than one while a worker is replaced
}

// Stats returns a picture of the queue and of so many workers.
func (q *Queue) Stats(workers int) QueueStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := QueueStats{
		Messages: q.waiting.n, Bytes: q.waiting.bytes, InFlight: q.flying, Idle: len(q.idle),
		Waiting: q.waited, Handling: q.took,
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

func (t *workerTotals) stats(at time.Duration) WorkerStats {
	s := WorkerStats{Handled: t.handled, Failed: t.failed, Busy: t.busy}
	for _, c := range t.channels {
		s.InHand += c.flight.n
		s.Window = max(s.Window, c.win.size)
		if c.flight.n > 0 {
			s.Busy += at - c.busySince
			s.Held = max(s.Held, at-max(c.since, c.flight.head.given))
		}
	}
	return s
}

// totals returns the sums of a worker. With mu held.
func (q *Queue) totals(worker int) *workerTotals {
	for len(q.workers) <= worker {
		q.workers = append(q.workers, new(workerTotals))
	}
	return q.workers[worker]
}

// measured counts messages that a worker has just answered, all at once, and
// returns how many of the answers are failures. With the queue's mutex held.
func (c *Channel) measured(batch []*Delivery, replies [][]byte, at time.Duration) (failed int) {
	if len(batch) == 0 {
		return 0
	}
	each := (at - max(c.since, batch[0].given)) / time.Duration(len(batch))
	c.q.took.Observe(each, len(batch))
	first := 0 // of those that arrived together
	for i, d := range batch {
		if frame.IsFailure(replies[i]) {
			failed++
		}
		if i+1 == len(batch) || batch[i+1].arrived != d.arrived {
			waited := at - d.arrived - each*time.Duration(len(batch)-i)
			c.q.waited.ObserveRun(waited-each*time.Duration(i-first), waited, i+1-first)
			first = i + 1
		}
	}
	c.totals.handled += uint64(len(batch) - failed)
	c.totals.failed += uint64(failed)
	c.rested(at)
	return failed
}

// rested notes the end of work, if that is what has come. With the queue's mutex
// held.
func (c *Channel) rested(at time.Duration) {
	if c.flight.n == 0 {
		c.totals.busy += at - c.busySince
	}
}

// opened and ended keep the list of the channels that a worker has.
func (q *Queue) opened(c *Channel) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c.totals = q.totals(c.worker)
	c.totals.channels = append(c.totals.channels, c)
}

// ended: what was in flight has just been taken back. With mu held.
func (q *Queue) ended(c *Channel, inFlight int) {
	t := c.totals
	t.channels = slices.DeleteFunc(t.channels, func(o *Channel) bool { return o == c })
	if inFlight > 0 {
		t.failed++ // the oldest is charged
		c.rested(now())
	}
}
