package ipc

import "time"

// An expiry is the messages of a lane that no worker had yet, the oldest first, and
// the timer for the first of them. It is moved only when it fires, so that it costs
// the same for any number of messages.
type expiry struct {
	first, last *Delivery
	timer       *time.Timer
	isRunning   bool
}

// maxOutOfOrder bounds how far a message goes before younger ones. It is older if
// its flow had to wait for room.
const maxOutOfOrder = 64

// add adds a message that waits, and reports whether the timer has to be started.
func (e *expiry) add(d *Delivery) (start bool) {
	before := e.last
	for i := 0; i < maxOutOfOrder && before != nil && before.arrived > d.arrived; i++ {
		before = before.sooner
	}
	d.sooner = before
	if before == nil {
		d.later, e.first = e.first, d
	} else {
		d.later, before.later = before.later, d
	}
	if d.later == nil {
		e.last = d
	} else {
		d.later.sooner = d
	}
	return !e.isRunning || e.first == d
}

func (e *expiry) remove(d *Delivery) {
	if d.sooner == nil {
		e.first = d.later
	} else {
		d.sooner.later = d.later
	}
	if d.later == nil {
		e.last = d.sooner
	} else {
		d.later.sooner = d.sooner
	}
	d.sooner, d.later = nil, nil
}

// start has the timer fire when the first message expires.
func (e *expiry) start(q *Queue, l *Lane, at time.Duration) {
	if e.first == nil {
		e.isRunning = false
		return
	}
	e.isRunning = true
	wait := max(0, e.first.arrived+l.Expires-at)
	if e.timer == nil {
		e.timer = time.AfterFunc(wait, func() { q.expire(l) })
		return
	}
	e.timer.Reset(wait)
}
