package ipc

import (
	"cmp"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc/frame"
)

// GiveUp ends a message that has had all its attempts before it was submitted.
func (q *Queue) GiveUp(d *Delivery, why string) {
	d.text = why
	d.assignID(q, now())
	q.giveUp(d, func() {})
}

// giveUp ends a message that failed every attempt, and calls done then.
func (q *Queue) giveUp(d *Delivery, done func()) {
	attempts := ""
	if d.attempts > 1 && d.fate != fateDropped {
		attempts = fmt.Sprintf("after %d attempts: ", d.attempts)
	}
	why := shorten(d.text, maxReason)
	q.logGivenUp(d, why)
	d.source.GivenUp.Add(1)
	q.record(d, attempts+why, func() {
		q.settleAlone(d, frame.AppendFailure(nil, frame.GivenUp, attempts+d.text))
		done()
	})
}

// record puts a message where the given-up ones are, if there is such a place, and
// calls done then.
func (q *Queue) record(d *Delivery, reason string, done func()) {
	if q.cfg.GivenUp == nil {
		done()
		return
	}
	q.cfg.GivenUp(d, reason, done)
}

// logGivenUp logs that a message is given up, with a copy of all that is said of
// it: the line may come later.
func (q *Queue) logGivenUp(d *Delivery, why string) {
	id, source, bytes, attempts := d.id, d.source.Name, len(d.Body()), d.attempts
	q.gaveUp.Add("message given up", func(e *zerolog.Event) {
		e.Uint64("id", id).Str("source", source).Int("bytes", bytes).Int("attempts", attempts).Str("why", why)
	})
}

// Reject ends a message that must not be submitted, such as one that is too
// long. It is put where the given-up ones are, or lost.
func (q *Queue) Reject(d *Delivery, code frame.Code, why string) {
	d.assignID(q, now())
	if q.cfg.GivenUp == nil {
		d.source.Lost.Add(1)
	}
	q.record(d, why, func() { q.settleAlone(d, frame.AppendFailure(nil, code, why)) })
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

// finish ends a message after its last delivery failed. It is counted as in flight
// until it is settled, so that a drain waits for it: the spool may have to write
// it first. The caller does not hold the mutex.
func (q *Queue) finish(d *Delivery) {
	switch d.fate {
	case fateGivenUp, fateDropped:
		q.giveUp(d, q.doneInFlight)
	case fateRefused:
		q.settleAlone(d, frame.AppendFailure(nil, frame.Refused, d.text))
		q.doneInFlight()
	case fateRetry:
		q.settleAlone(d, frame.AppendFailure(nil, frame.Retry, d.text))
		q.doneInFlight()
	default:
		q.abandonOne(d, q.doneInFlight)
	}
}

// doneInFlight notes that a message is not in flight any more.
func (q *Queue) doneInFlight() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inFlight--
	q.wake()
}

// wasDelayed notes that a message waits for its time. With the mutex held.
func (q *Queue) wasDelayed(d *Delivery, at time.Duration) {
	q.backlog.add(d)
	q.retries.start(at, q.dueNow)
}

// dueNow delivers again what has waited long enough.
func (q *Queue) dueNow() {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := now()
	for d := q.retries.next(at); d != nil; d = q.retries.next(at) {
		q.backlog.remove(d)
		d.again = at
		q.backlog.pushAgain(d, false)
	}
	q.retries.start(at, q.dueNow)
	q.dispatch()
}

// Until says when the pool ends. A retry that is due later is not waited for.
func (q *Queue) Until(deadline time.Time) {
	q.mu.Lock()
	q.retries.until = max(deadline.Sub(epoch), 1)
	var late list
	for _, d := range slices.Clone(q.retries.due) {
		if d.again > q.retries.until {
			q.retries.remove(d)
			q.backlog.remove(d)
			late.push(d)
		}
	}
	q.wake()
	q.mu.Unlock()
	q.abandon(&late)
}

// expire ends the messages of a lane that have waited too long.
func (q *Queue) expire(l *Lane) {
	q.mu.Lock()
	at := now()
	var late list
	for d := l.expiry.first; d != nil && at-d.arrived >= l.Expires; d = l.expiry.first {
		q.backlog.takeNew(d)
		late.push(d)
	}
	l.expiry.start(q, l, at)
	q.wake()
	q.mu.Unlock()
	for late.n > 0 {
		d := late.pop()
		d.source.Expired.Add(1)
		q.settleAlone(d, frame.AppendFailure(nil, frame.Expired, fmt.Sprintf("no worker had it within %s", l.Expires)))
	}
}

// Pause ends the handing out of messages, until Resume. What workers have is
// finished, and what arrives waits.
func (q *Queue) Pause() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused = true
}

// Resume ends a Pause.
func (q *Queue) Resume() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused = false
	q.dispatch()
}

// Paused reports whether Pause was called, and Resume was not since.
func (q *Queue) Paused() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.paused
}

// A Waiting is what is known of a message that waits.
type Waiting struct {
	ID       uint64
	Source   string
	Age      time.Duration
	Bytes    int           // of the body
	Attempts int           // that failed
	Due      time.Duration // until it may be delivered again; 0: now
}

// List returns messages that wait, in the order of their numbers, and how many
// wait. It returns at most limit, which bounds how long it holds the queue up: as a
// rule those with the lowest numbers, but of the retries that are not due yet those
// that are due first.
func (q *Queue) List(limit int) (first []Waiting, all int) {
	first, all = q.waiting(limit)
	slices.SortFunc(first, func(a, b Waiting) int { return cmp.Compare(a.ID, b.ID) })
	return first[:min(limit, len(first))], all
}

// waiting returns messages for List, at most limit of each kind.
func (q *Queue) waiting(limit int) (some []Waiting, all int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := now()
	ready := q.backlog.n - len(q.retries.due)
	some = make([]Waiting, 0, min(limit, ready)+min(limit, len(q.retries.due)))
	for d := range q.backlog.byAge {
		if len(some) == limit {
			break
		}
		some = append(some, waitingOf(d, at, 0))
	}
	for _, d := range q.retries.due[:min(limit, len(q.retries.due))] {
		some = append(some, waitingOf(d, at, max(d.again-at, 1)))
	}
	return some, q.backlog.n
}

func waitingOf(d *Delivery, at, due time.Duration) Waiting {
	return Waiting{d.id, d.source.Name, at - d.arrived, len(d.Body()), d.attempts, due}
}

// Drop gives up messages that wait, and returns how many of the given ones did.
func (q *Queue) Drop(ids []uint64) (dropped int) {
	wanted := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	q.mu.Lock()
	found := q.takeWaiting(func(d *Delivery) bool { return wanted[d.id] })
	q.inFlight += found.n
	q.wake()
	q.mu.Unlock()
	dropped = found.n
	for found.n > 0 {
		d := found.pop()
		d.text, d.fate = "dropped by an operator", fateDropped
		q.finish(d)
	}
	return dropped
}

// takeWaiting takes out the messages that wait and that the condition is true for.
// With the mutex held.
func (q *Queue) takeWaiting(wanted func(*Delivery) bool) (taken list) {
	var again, first []*Delivery
	for d := range q.backlog.all {
		switch {
		case !wanted(d):
		case !d.isAgain:
			first = append(first, d)
		default:
			again = append(again, d)
		}
	}
	for _, d := range again {
		q.backlog.takeAgain(d)
		taken.push(d)
	}
	for _, d := range slices.Clone(q.retries.due) {
		if wanted(d) {
			q.retries.remove(d)
			q.backlog.remove(d)
			taken.push(d)
		}
	}
	for _, d := range first {
		q.backlog.takeNew(d)
		taken.push(d)
	}
	return taken
}

// Close ends the delivery: what waits, and what comes back from its workers
// later, is not handled any more. It is kept in the spool if there is one, or
// lost, and its client is told.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	left := q.takeWaiting(func(*Delivery) bool { return true })
	for q.backlog.waiters > 0 {
		q.backlog.tell(q.backlog.firstInLine())
	}
	q.wake()
	q.mu.Unlock()
	q.abandon(&left)
}

// abandon ends messages that will not be handled here.
func (q *Queue) abandon(l *list) {
	for l.n > 0 {
		q.abandonOne(l.pop(), func() {})
	}
}

// abandonOne ends one of them, and calls done then.
func (q *Queue) abandonOne(d *Delivery, done func()) {
	end := func(kept bool) {
		switch {
		case kept:
			d.source.Spooled.Add(1)
			q.settleAlone(d, frame.AppendFailure(nil, frame.Spooled, "kept; it is handled after the next start, do not send it again"))
		case d.last == nil:
			d.source.Lost.Add(1)
			q.settleAlone(d, frame.AppendFailure(nil, frame.Stopping, "poolinit stopped before a worker was free; send it again"))
		default:
			d.source.Lost.Add(1)
			q.settleAlone(d, frame.AppendFailure(nil, frame.Interrupted, "poolinit stopped while a worker had the message"))
		}
		done()
	}
	if q.cfg.Spool == nil {
		end(false)
		return
	}
	q.cfg.Spool(d, end)
}

// Debts are those of all clients.
func (q *Queue) Debts() *Debts { return &q.debts }

// Hold ends the handing out of a flow's new messages, until Unhold; Submit takes
// none. Retries are handed out: the replies that are there may be waiting for
// theirs. The messages that wait leave the queue's limits, so that they keep no
// other flow out. It reports whether there was memory for that.
func (q *Queue) Hold(f *Flow) (kept bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	kept = q.backlog.hold(f)
	q.wake()
	return kept
}

// Unhold ends a Hold.
func (q *Queue) Unhold(f *Flow) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.backlog.unhold(f)
	q.dispatch()
}

// MaxReply is how long the body of a reply may be, in bytes.
func (q *Queue) MaxReply() int { return min(frame.MaxReply, q.cfg.ReplyBytes) }

// Memory returns how much memory messages and replies take, in bytes.
func (q *Queue) Memory() int {
	n, bytes, inFlight := q.Depth()
	arriving, _ := q.budget.Depth()
	reading, _ := q.reads.Depth()
	return bytes + (n+inFlight)*int(unsafe.Sizeof(Delivery{})) + arriving + reading + q.debts.Total()
}
