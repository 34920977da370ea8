package flow

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/poolinit/poolinit/feeders/link"
)

// returnedDrain is the reason why a message went back that the pool never had.
const returnedDrain = "drain"

// received takes in what the broker has delivered.
func (f *Flow) received(list []*Message, now time.Time) {
	if len(list) > 0 {
		f.gotAt, f.nudged = now, false
	}
	for _, m := range list {
		f.counts.received++
		if m.Redelivered {
			f.counts.redelivered++
		}
		if m.TakenOver {
			f.counts.takenOver++
		}
		if e := f.hand.find(m); e != nil { // the pool still has it
			f.counts.merged++
			e.m = m
			if e.place == settling {
				e.again = true
			}
			continue
		}
		f.admit(f.hand.add(m, now), now)
	}
}

// admit decides about a message that has come.
func (f *Flow) admit(e *entry, now time.Time) {
	switch {
	case f.stopping:
		f.giveBack(e, returnedDrain, false, now)
	case e.attempt > f.cfg.Attempts: // the earlier ones killed their feeder, with its pool
		e.attempt--
		f.bury(e, Exhausted, "no attempt ended: the pool died, or stopped, with the message in hand", now)
	case len(e.m.Body) > f.cfg.MaxMessage:
		f.bury(e, link.TooBig, fmt.Sprintf("the message has %d bytes, and --max-message is %d", len(e.m.Body), f.cfg.MaxMessage), now)
	default:
		if name := f.laneOf(e.m); name == "" || f.lanes.enter(e, name) {
			f.ready.push(e)
		}
	}
}

// laneOf returns what orders a message; "": nothing does.
func (f *Flow) laneOf(m *Message) string {
	switch f.cfg.Order {
	case OrderKey:
		return m.Key
	case OrderPartition:
		return m.Lane
	case OrderAll:
		return "all"
	}
	return ""
}

// send hands on what may go.
func (f *Flow) send() {
	sent := false
	for !f.stopping && f.hand.count[open] < f.credit {
		e := f.ready.first()
		if e == nil || f.alone || e.m.Alone && f.hand.count[open] > 0 {
			break
		}
		f.ready.pop()
		if f.owner != nil && !f.owner.Owns(e.m) {
			f.free(e)
			f.hand.drop(e)
			continue
		}
		f.meta = appendMeta(f.meta[:0], e.m, e.attempt, f.cfg.Source)
		f.link.Send(e.tag, f.meta, e.m.Body)
		f.hand.move(e, open)
		f.alone = e.m.Alone
		sent = true
	}
	if sent {
		f.link.Flush()
	}
}

// answered deals with the pool's answer to a message.
func (f *Flow) answered(a link.Answer, now time.Time) error {
	e := f.hand.byTag[a.Tag]
	if e == nil || e.place != open {
		return fmt.Errorf("%w: it answered tag %d, which is not open", ErrLink, a.Tag)
	}
	e.answered = now
	if e.m.Alone {
		f.alone = false
	}
	v := judge(a)
	switch v.action {
	case Ack:
		o := &Outcome{Action: Ack}
		if f.cfg.Replies && e.m.ReplyTo {
			o.Reply = append([]byte{}, a.Body...)
			o.ReplyType = replyType(a.Meta)
		}
		f.free(e)
		f.decide(e, o, now)
	case Dead:
		f.bury(e, v.reason, v.text, now)
	case Return:
		f.giveBack(e, string(v.reason), v.counted, now)
		if v.stop && !f.stopping {
			f.stop(now)
		}
	default:
		f.failed(e, v.text, v.after, now)
	}
	return nil
}

// decide hands an outcome to the settler.
func (f *Flow) decide(e *entry, o *Outcome, now time.Time) {
	o.entry = e
	f.hand.move(e, settling)
	f.settle.add(o, now)
}

// free lets the next message of a lane go.
func (f *Flow) free(e *entry) {
	if next := f.lanes.leave(e); next != nil {
		f.ready.push(next)
	}
}

// giveBack returns a message to the broker.
func (f *Flow) giveBack(e *entry, reason string, counted bool, now time.Time) {
	f.free(e)
	f.decide(e, &Outcome{Action: Return, Counted: counted, Reason: link.Code(reason), Attempts: e.attempt}, now)
}

// bury makes a message a dead letter. Its lane is free when that is written.
func (f *Flow) bury(e *entry, reason link.Code, text string, now time.Time) {
	text = f.cfg.Clean(text)
	f.say("dead", slog.LevelWarn, "dead letter", "id", e.m.ID, "reason", string(reason), "attempts", e.attempt, "text", text)
	o := &Outcome{Action: Dead, Reason: reason, Text: text, Attempts: e.attempt}
	if f.cfg.Drop {
		o.Action = Ack
	}
	f.decide(e, o, now)
}

// failed counts an attempt. after is the delay that the worker asked for, or negative.
func (f *Flow) failed(e *entry, text string, after time.Duration, now time.Time) {
	if e.attempt >= f.cfg.Attempts {
		f.bury(e, Exhausted, text, now)
		return
	}
	f.counts.retried++
	if after < 0 {
		after = backoff(e.attempt, f.cfg.RetryLeast, f.cfg.RetryMost)
	}
	e.attempt++
	switch {
	case f.stopping:
		f.giveBack(e, returnedDrain, true, now)
	case e.lane == nil && (f.traits.Delays || f.traits.Parks && (after > heldLong || f.hand.count[held] >= heldMost)):
		f.decide(e, &Outcome{Action: Delayed, Delay: after, Attempts: e.attempt, Text: f.cfg.Clean(text)}, now)
	default:
		f.hand.move(e, held)
		f.held.add(e, now.Add(after))
		f.settle.add(&Outcome{Action: Note, Attempts: e.attempt, entry: e}, now)
	}
}

// settled deals with what Settle has done.
func (f *Flow) settled(now time.Time) {
	f.up.worked()
	done, refused := f.settle.settled(now)
	if refused > 0 {
		f.saidRefused()
	}
	for _, o := range done {
		e := o.entry
		switch {
		case o.Action == Note:
			continue
		case e.again: // it was delivered again meanwhile: that delivery is settled, too
			e.again = false
			f.settle.add(o, now)
			continue
		}
		f.count(o, now)
		f.free(e)
		f.hand.drop(e)
	}
}

// saidRefused logs that an outcome could not be written.
func (f *Flow) saidRefused() {
	for _, o := range f.settle.refused {
		f.say("unsettled", slog.LevelError, "the broker does not take what became of a message, which is kept", "id", o.entry.m.ID,
			"dead_letter", o.Action == Dead, "error", f.cfg.Clean(o.Err.Error()))
	}
}

// count counts an outcome that the broker has confirmed.
func (f *Flow) count(o *Outcome, now time.Time) {
	switch {
	case o.Action == Dead || o.Action == Ack && o.Reason != "":
		f.counts.dead[string(o.Reason)]++
	case o.Action == Ack:
		f.counts.acked++
	case o.Action == Return:
		f.counts.returned[string(o.Reason)]++
	}
	if !o.entry.answered.IsZero() {
		f.counts.acks.add(now.Sub(o.entry.answered))
	}
}

// stop gives back what the pool does not have, and takes no more.
func (f *Flow) stop(now time.Time) {
	f.stopping = true
	f.up.cancel("pull")
	f.ready = fifo{}
	for _, l := range f.lanes {
		l.queue = fifo{}
	}
	for _, e := range f.hand.byTag {
		if e.place == waiting {
			e.lane = nil
			f.giveBack(e, returnedDrain, false, now)
		}
	}
}

// drain begins the end.
func (f *Flow) drain(now time.Time) {
	f.draining = true
	for _, e := range f.held.all() {
		f.giveBack(e, returnedDrain, true, now)
	}
	f.stop(now)
}

// leave ends the feed when the pool and the broker have all that is theirs.
func (f *Flow) leave(now time.Time) {
	if f.hand.count[open] > 0 {
		return
	}
	if f.leaveBy.IsZero() {
		f.leaveBy = now.Add(leaveLimit)
	}
	if f.up.session == nil { // the broker gives back what is not acknowledged by itself
		f.settle.purge(func(o *Outcome) bool {
			if o.Action == Return {
				f.hand.drop(o.entry)
			}
			return o.Action == Return || o.Action == Note
		})
	}
	switch {
	case f.hand.size() == 0 && !f.up.busy("pull") && !f.up.busy("close"):
		if f.up.session == nil {
			f.end(nil)
			return
		}
		f.up.leave(func(err error) {
			if err != nil {
				f.log.Warn("cannot take leave of the broker", "error", f.cfg.Clean(err.Error()))
			}
			f.end(nil)
		})
	case !now.Before(f.leaveBy) && f.hand.size() > 0:
		f.end(fmt.Errorf("%d messages could not be settled within %v: the broker delivers them again", f.hand.size(), leaveLimit))
	}
}
