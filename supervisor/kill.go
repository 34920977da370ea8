package supervisor

import (
	"errors"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/reaper/signals"
)

// What follows are the actions of workerRules that signal a worker, end what it
// leaves, or give it up.

// signalGroup signals the worker's group. signal also wakes what it signals if that
// was stopped: a stopped process would sit out its whole grace period.
func (w *worker) signalGroup(sig syscall.Signal) { w.signal(Group, sig) }

func (w *worker) signal(target Target, sig syscall.Signal) {
	switch err := w.proc.Signal(target, sig); {
	case err == nil && sig != syscall.SIGKILL:
		_ = w.proc.Signal(target, syscall.SIGCONT) // ended between the two: fine
	case err != nil && !errors.Is(err, os.ErrProcessDone):
		w.log.Warn().Err(err).Str("signal", signals.Name(sig)).Msg("cannot signal the worker")
	}
}

func (w *worker) killUnasked() {
	w.order.cause = Stop
	w.proc.Finish()
	w.kill()
}

func (w *worker) killLate() {
	w.log.Warn().Msg("worker did not stop in time, killing it")
	w.kill()
}

// kill sends SIGKILL. A process may take killGrace to die of it. One that does not
// hangs in the kernel, is held by a tracer, or may not be signalled.
func (w *worker) kill() {
	w.end.killed = true
	w.signalGroup(syscall.SIGKILL)
	w.awaitDeath()
}

func (w *worker) awaitDeath() { w.at.kill = w.cfg.Awake.After(killGrace) }

// giveUp frees the place of a process that survives SIGKILL. What it has in hand
// goes to other workers. Its end is still waited for, but by nothing that matters.
func (w *worker) giveUp() {
	pid := w.proc.Info().PID
	line := w.log.Warn()
	if w.cfg.ProcState != nil {
		line = line.Str("state", w.cfg.ProcState(pid))
	}
	line.Msg("worker survived SIGKILL, going on without it")
	w.end.givenUp = true
	w.noteEnd(ProcessInfo{PID: pid, Exit: reaper.Exit{Signal: syscall.SIGKILL}})
	w.left.add(w)
	w.sayGone()
}

// exitLate: a process that was given up has ended after all.
func (w *worker) exitLate() {
	w.left.remove(w)
	exit := w.proc.Info().Exit
	line := w.log.Info()
	if exit.Signal != 0 {
		line = line.Str("signal", signals.Name(exit.Signal))
	} else {
		line = line.Int("code", exit.Code)
	}
	line.Str("uptime", round(time.Since(w.began))).Msg("worker that had survived SIGKILL exited")
}

func (w *worker) wasKilled() bool { return w.end.killed }

func (w *worker) endedByItself() bool { return w.order.cause == "" }

// sweepOwn ends what a worker that ended by itself has left of its group, so
// that nothing holds its output or its port when the next one starts.
func (w *worker) sweepOwn() {
	w.log.Info().Msg("worker left processes behind, stopping them first")
	w.end.leftGroup = true
	w.signalGroup(w.cfg.StopSignal)
	w.sweep()
}

// sweep gives what is left of the group the time that the worker had. It has not
// been signalled yet if the signal went to the worker alone.
func (w *worker) sweep() {
	if w.cfg.StopAlone {
		w.signalGroup(w.cfg.StopSignal)
	}
	if w.order.deadline.IsZero() {
		w.setDeadline(time.Now().Add(w.cfg.StopTimeout))
	}
}

func (w *worker) killRest() {
	w.log.Warn().Msg("processes left in the worker's group did not stop in time, killing them")
	w.signalGroup(syscall.SIGKILL)
	w.awaitDeath()
}

// leaveRest: what is left of the group hangs in the kernel, or is a zombie whose
// parent does not wait for it. The slot goes on without it.
func (w *worker) leaveRest() {
	w.log.Warn().Msg("processes of the worker's group survived SIGKILL, going on without them")
	w.sayGone()
}

// leftovers are the processes of a pool that survive SIGKILL, and were given up.
type leftovers struct {
	over chan struct{} // closed when the pool has ended: they are not waited for any more

	mu  sync.Mutex
	all []*worker
}

func (l *leftovers) add(w *worker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, w)
}

func (l *leftovers) remove(w *worker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(l.all, func(o *worker) bool { return o == w })
}

// pids returns those of a slot that have not ended, or those of all slots if it is
// negative.
func (l *leftovers) pids(slot int) (pids []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.all {
		select {
		case <-w.events.Exited: // after the end of the pool nothing removes it
		default:
			if slot < 0 || w.slot == slot {
				pids = append(pids, w.end.pid)
			}
		}
	}
	return pids
}

// delay returns how long a slot waits at least before its next start. The first of
// its processes that survives SIGKILL is replaced at once, but what holds several
// of them may hold every other one too.
func (l *leftovers) delay(cfg *Config, slot int, end ending) time.Duration {
	left := len(l.pids(slot))
	if !end.givenUp || left <= 1 {
		return 0
	}
	return cfg.backoff(left - 1)
}
