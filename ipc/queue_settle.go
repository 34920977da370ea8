package ipc

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/poolinit/poolinit/ipc/frame"
)

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
