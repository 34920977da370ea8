package ipc

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/poolinit/poolinit/ipc/frame"
)

// failed decides about a message whose delivery failed: once more, or the end.
// It reports whether the message is to be delivered again.
func (q *Queue) failed(d *Delivery, why string) bool {
	d.attempts++
	d.text = why
	if d.attempts < q.cfg.Attempts {
		d.source.Retried.Add(1)
		return true
	}
	return false
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
	q.finishAlone(d, frame.AppendFailure(nil, frame.GivenUp, reason))
}

// finishAlone settles one message.
func (q *Queue) finishAlone(d *Delivery, reply []byte) {
	origin := d.origin
	q.finish(d, reply)
	origin.Flush()
}

// finish settles a message, which is its origin's from then on. The caller
// flushes the origin.
func (q *Queue) finish(d *Delivery, reply []byte) {
	if frame.IsFailure(reply) {
		d.source.Failed.Add(1)
	} else {
		d.source.Handled.Add(1)
	}
	d.origin.Settled(d, reply)
}

// Close ends the delivery: what waits, and what comes back from its workers
// later, is not handled any more. It is kept in the spool if there is one, or
// lost, and its client is told.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	left := q.waiting
	q.waiting = list{}
	q.unblock()
	q.mu.Unlock()
	q.leave(&left)
}

// leave ends messages that will not be handled here.
func (q *Queue) leave(l *list) {
	kept := q.keep(l)
	for i := 0; l.n > 0; i++ {
		d := l.pop()
		switch {
		case kept[i]:
			d.source.Spooled.Add(1)
			q.finishAlone(d, frame.AppendFailure(nil, frame.Spooled, "kept; it is handled after the next start, do not send it again"))
		case d.last == nil:
			d.source.Lost.Add(1)
			q.finishAlone(d, frame.AppendFailure(nil, frame.Stopping, "poolinit stopped before a worker was free; send it again"))
		default:
			d.source.Lost.Add(1)
			q.finishAlone(d, frame.AppendFailure(nil, frame.Interrupted, "poolinit stopped while a worker had the message"))
		}
	}
}

// spoolers is how many messages are brought to the spool at a time. Each waits
// for the disk, which writes many as fast as one.
const spoolers = 16

// keep brings messages to the spool, if there is one, and reports which of them
// it has taken.
func (q *Queue) keep(l *list) []bool {
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

// reject ends a message that no worker is to have. It is put where the given-up
// ones are, or lost.
func (q *Queue) reject(d *Delivery, code frame.Code, why string) {
	d.enter(q, now())
	if q.cfg.GivenUp != nil {
		q.cfg.GivenUp(d, why)
	} else {
		d.source.Lost.Add(1)
	}
	q.finishAlone(d, frame.AppendFailure(nil, code, why))
}

// landed: a message that a worker has answered with a failure is settled, or
// waits again. Until then it was in flight, so that a drain waits for it.
func (q *Queue) landed() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flying--
	q.unblock()
}

// retry delivers a message again, or gives it up.
func (q *Queue) retry(d *Delivery, why string) {
	if !q.failed(d, why) {
		q.giveUp(d)
		return
	}
	var one list
	one.push(d)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.again(&one)
}
