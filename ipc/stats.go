package ipc

import (
	"slices"
	"time"
)

// QueueStats is a picture of a Queue.
type QueueStats struct {
	Messages, Bytes int           // that wait
	Oldest          time.Duration // the age of the first of them that may be handed out; 0: none waits
	OldestID        uint64        // its number; 0: none waits
	InFlight        int           // messages with workers
	Idle            int           // workers that are fed and have nothing in hand
	Paused          bool          // nothing is handed out
	Delayed         int           // messages, of those that wait, whose retry is not due yet
	Isolated        int           // messages, of those that wait, that are to be delivered alone
	Replies         int           // memory of the replies that wait for their clients, in bytes
	Held            int           // messages, of those that wait, whose client has to read replies first
	Later           int           // messages, of those that wait, that may not be handed out now

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
	InHand  int           // messages
	Held    time.Duration // how long the oldest of them has been in its hands
	Window  int           // 0: there is no such process
	Newborn bool          // it is fed last, until it has answered a message
	Failing bool          // it is fed less: it fails everything
}

// SpoolStats is what a spool has counted.
type SpoolStats struct {
	Files, Bytes, Limit int64 // in its directory, and how many bytes there may be

	LostLimit uint64 // messages that were not kept: they would have gone beyond the limit,
	LostError uint64 // the disk refused them,
	LostSlow  uint64 // or it did not respond in time
}

// workerTotals are the sums over a worker's processes. The queue's mutex guards
// them.
type workerTotals struct {
	handled, failed uint64
	busy            time.Duration
	channels        []*Channel // that are open: more than one while a worker is replaced
}

func (t *workerTotals) add(c *Channel) { t.channels = append(t.channels, c) }

func (t *workerTotals) remove(c *Channel) {
	t.channels = slices.DeleteFunc(t.channels, func(o *Channel) bool { return o == c })
}

func (t *workerTotals) stats(at time.Duration) WorkerStats {
	s := WorkerStats{Handled: t.handled, Failed: t.failed, Busy: t.busy}
	for _, c := range t.channels {
		s.InHand += c.flight.n
		s.Window = max(s.Window, c.most())
		s.Newborn = s.Newborn || c.serving && !c.proven
		s.Failing = s.Failing || c.serving && c.conduct.isFailing
		if c.flight.n > 0 {
			s.Busy += at - c.busySince
			s.Held = max(s.Held, at-c.flight.head.began)
		}
	}
	return s
}
