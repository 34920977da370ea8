package supervisor

import (
	"syscall"
	"time"
)

// reaped notes how the process ended. What it had in hand goes to others before
// its group is swept.
func (w *worker) reaped(o order) {
	info := w.proc.Info()
	w.end.pid, w.end.exit, w.end.uptime = info.PID, info.Exit, time.Since(w.began)
	w.end.wasReady = w.wasReady()
	if w.end.used = info.CPU; w.end.used == 0 {
		w.end.used = cpu(&w.end.exit.Rusage)
	}
	w.end.healthy = w.wasReady() && w.end.uptime >= w.cfg.HealthyAfter
	switch {
	case o.cause != "":
		w.end.cause = o.cause
	case isClosed(w.loose):
		w.end.cause = Detached
	default:
		w.end.cause = ownDoing(w.end.exit, w.cfg.OOMKilled)
	}
	w.proc.Release("the worker "+w.end.String(), w.end.byPool(w.cfg.StopSignal))
}

// finish brings the process to its end: the signal of the order, SIGKILL at its
// deadline. Another order can only make it faster.
//
// A worker with messages in hand is told to finish by the end of its input, and
// signalled only when it has, or when only the last part of its time is left:
// signals interrupt what user code is waiting for.
func (w *worker) finish(o order) order {
	deadline, hurry := w.timerAt(o), w.hurry
	answered, last := w.proc.Finish(), w.lastPart(o)
	if !o.cause.patient() {
		answered = closedChan
	}
	for {
		select {
		case <-w.events.Exited:
			return o
		case <-answered:
			answered, last = nil, nil
			w.ask(o)
			continue
		case <-last:
			answered, last = nil, nil
			w.ask(o)
			continue
		case next := <-w.orders:
			if o.deadline.IsZero() || next.deadline.Before(o.deadline) {
				o.deadline = next.deadline
				deadline = w.timerAt(o)
				if last != nil {
					last = w.lastPart(o)
				}
			}
			continue
		case m, ok := <-w.events.Notices: // read to the end: `poolinit notify` waits for that
			if !ok {
				w.events.Notices = nil
			}
			w.says(m.Status)
			continue
		case what := <-w.events.Asks:
			if what == AskTimeout && answered != nil {
				o = w.orderNow(Timeout, w.cfg.TimeoutSignal, killGrace)
				deadline, answered, last = w.timerAt(o), closedChan, nil
			}
			continue
		case <-hurry:
			hurry = nil
		case <-deadline:
			w.log.Warn().Msg("worker does not stop in time: killing it")
		}
		w.end.killed = true
		deadline, answered, last = nil, nil, nil
		w.signalGroup(syscall.SIGKILL)
	}
}

// ask sends the signal of an order, if there is one.
func (w *worker) ask(o order) {
	if o.signal != 0 {
		w.signalGroup(o.signal)
	}
}

// lastPart returns a channel that fires when so little time is left before
// SIGKILL that a worker should hear of it.
func (w *worker) lastPart(o order) <-chan time.Time {
	if o.deadline.IsZero() {
		return nil
	}
	return time.After(time.Until(o.deadline) - w.cfg.lastPart())
}

// timerAt returns a channel that fires at an order's deadline; with none (the
// process has exited by itself) never.
func (w *worker) timerAt(o order) <-chan time.Time {
	if o.deadline.IsZero() {
		return nil
	}
	return time.After(time.Until(o.deadline))
}

// sweep ends what the process left of its group, so that nothing holds its
// output or its port when the next one starts.
func (w *worker) sweep(o order) {
	if w.isGone() {
		return
	}
	if o.cause == "" {
		w.log.Info().Msg("worker left processes behind: stopping them first")
		w.signalGroup(w.cfg.StopSignal)
	}
	if o.deadline.IsZero() {
		o.deadline = time.Now().Add(w.cfg.StopTimeout)
	}
	deadline, hurry := w.timerAt(o), w.hurry
	for {
		select {
		case <-w.events.Gone:
			return
		case next := <-w.orders:
			if next.deadline.Before(o.deadline) {
				o.deadline = next.deadline
				deadline = w.timerAt(o)
			}
			continue
		case <-hurry:
		case <-deadline:
		}
		w.log.Warn().Msg("processes that the worker left in its group do not stop: killing them")
		w.signalGroup(syscall.SIGKILL)
		w.awaitKilled()
		return
	}
}

func (w *worker) isGone() bool { return isClosed(w.events.Gone) }

// awaitKilled waits for the group to be gone after SIGKILL. What is left then
// hangs in the kernel, or is waited for by somebody who does not: the slot
// goes on without.
func (w *worker) awaitKilled() {
	select {
	case <-w.events.Gone:
	case <-time.After(killGrace):
		w.log.Warn().Msg("processes of the worker's group survive SIGKILL: going on without them")
	}
}

// signalGroup signals the worker's group, and also wakes it if it was stopped:
// a stopped process would sit out its whole grace period.
func (w *worker) signalGroup(sig syscall.Signal) {
	if w.proc.Signal(Group, sig) == nil && sig != syscall.SIGKILL {
		_ = w.proc.Signal(Group, syscall.SIGCONT) // ended between the two: fine
	}
}

// stop asks the worker to stop. It returns at once; gone tells when it did.
func (w *worker) stop(o order) {
	select {
	case w.orders <- o:
	case <-w.gone:
	}
}
