package flow

import (
	"slices"
	"time"
)

// maxBatch is the most outcomes of one call of Settle.
const maxBatch = 512

// refusedLeast and refusedMost bound the delay after which an outcome that failed by
// itself is tried again.
const (
	refusedLeast = time.Second
	refusedMost  = 30 * time.Second
)

// settler collects outcomes, so that many go to the broker in one call.
type settler struct {
	queue   []*Outcome
	from    time.Time  // when the queue's first one came
	running []*Outcome // that Settle has

	refused   []*Outcome // that failed by themselves
	refusedAt time.Time  // when they are tried again
	refusals  int        // in a row
}

func (s *settler) add(o *Outcome, now time.Time) {
	if len(s.queue) == 0 {
		s.from = now
	}
	s.queue = append(s.queue, o)
}

// size is how many outcomes the broker has not confirmed.
func (s *settler) size() int { return len(s.queue) + len(s.running) + len(s.refused) }

// due reports whether the outcomes go now: they are enough, have waited for long
// enough, or nothing is on its way that could join them.
func (s *settler) due(now time.Time, idle bool, full int, linger time.Duration) bool {
	s.retry(now)
	return len(s.queue) > 0 && len(s.running) == 0 &&
		(idle || len(s.queue) >= min(full, maxBatch) || !now.Before(s.from.Add(linger)))
}

// take returns the outcomes of the next call, those that are given back last, and
// newest first: what is put in front of a queue one by one is then in order.
func (s *settler) take() []*Outcome {
	n := min(len(s.queue), maxBatch)
	batch := slices.Clone(s.queue[:n])
	s.queue = slices.Delete(s.queue, 0, n)
	slices.SortStableFunc(batch, func(a, b *Outcome) int {
		ra, rb := a.Action == Return, b.Action == Return
		switch {
		case ra && rb:
			return int(int64(b.entry.tag) - int64(a.entry.tag))
		case ra:
			return 1
		case rb:
			return -1
		}
		return 0
	})
	s.running = batch
	return batch
}

// failed puts back what Settle had.
func (s *settler) failed(now time.Time) {
	s.queue = append(slices.Clone(s.running), s.queue...)
	s.running, s.from = nil, now
}

// settled notes that Settle has returned, and returns the outcomes that are done.
func (s *settler) settled(now time.Time) (done []*Outcome, refused int) {
	for _, o := range s.running {
		if o.Err == nil {
			done = append(done, o)
			continue
		}
		s.refused = append(s.refused, o)
		refused++
	}
	s.running = nil
	switch {
	case refused > 0:
		s.refusals++
		s.refusedAt = now.Add(backoff(s.refusals, refusedLeast, refusedMost))
	case len(s.refused) == 0:
		s.refusals = 0
	}
	return done, refused
}

// retry puts outcomes that failed back into the queue when it is time.
func (s *settler) retry(now time.Time) {
	if len(s.refused) == 0 || now.Before(s.refusedAt) {
		return
	}
	for _, o := range s.refused {
		o.Err = nil
		s.add(o, now)
	}
	s.refused = nil
}

// next is when due has to be asked, if nothing else happens; zero: never.
func (s *settler) next(linger time.Duration) (t time.Time) {
	if len(s.queue) > 0 && len(s.running) == 0 {
		t = s.from.Add(linger)
	}
	if len(s.refused) > 0 {
		t = earlier(t, s.refusedAt)
	}
	return t
}

// purge removes the outcomes that no broker can be told.
func (s *settler) purge(remove func(*Outcome) bool) {
	s.queue = slices.DeleteFunc(s.queue, remove)
	s.refused = slices.DeleteFunc(s.refused, remove)
}
