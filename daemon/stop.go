package daemon

import (
	"context"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/supervisor"
)

// lastLines is how long the end waits for output that is read slowly, or not at
// all. What is not written by then is lost.
const lastLines = time.Second

// leastGrace is how long processes that are left over get between TERM and KILL
// even if --stop-timeout has elapsed.
const leastGrace = 100 * time.Millisecond

// backoffTick is how often a drain looks whether messages wait while workers
// back off.
const backoffTick = 100 * time.Millisecond

// These are the parts of a daemon as a stop uses them. Tests have fakes.
type (
	messages interface {
		takesMessages() bool
		serve()
		messagesWait() bool
		resume()
		drain(until time.Time) <-chan struct{}
		close(hurried context.Context, until time.Time)
		totals() ipc.Totals
	}
	exitCommand interface {
		run(hurried context.Context, until time.Time)
	}
	namespace interface {
		EndRest(hurried context.Context, grace time.Duration) (found bool)
		Close()
	}
)

// Stop is the whole order of a stop. The pool is not ready any more when it
// begins; helpless says that it stops by itself and can handle no message. Each
// step that waits ends at its deadline at the latest. A second stop request
// (requests.Stop) kills the workers and ends this wait and all later ones early.
// Stop returns the exit code.
func (d *Daemon) Stop(helpless bool) (code int) {
	deadline := d.pool.stopDeadline()
	// What waits because of a pause is delivered while there is time.
	d.intake.resume()
	// Others hear of the stop first, so the pool still serves.
	helpless = helpless || d.keepServing()
	// The sources close. What has arrived is handled, and what comes later is
	// answered "stopping".
	d.drain(helpless, deadline)
	// The workers stop: the end of their input and the stop signal, all at once,
	// and SIGKILL at the deadline.
	pool := d.stopWorkers(deadline)
	// Clients read how their messages ended, and their connections are closed.
	d.intake.close(d.pool.hurried, deadline)
	// The command at exit runs when nothing else of the pool does.
	d.runAtExit(deadline)
	// What is left in the namespace ends, by TERM and KILL.
	d.endRest(deadline)
	// No signal can hurry anything any more.
	d.ignoreSignals()
	// The last lines of the workers, and the last one of the log.
	d.writeLastLines()
	logEnd(d.log, pool.Code, pool.Killed, d.intake.totals(), deadline.Add(-d.cfg.Pool.StopTimeout))
	// The terminal goes back to the shell.
	d.terminal.Close()
	// The endpoints close late, so that a last scrape sees the end.
	d.endpoints.close()
	d.closeShares()
	d.reaper.Close()
	return pool.Code
}

// reasonToStop returns when the pool has to stop: a signal or the control socket
// asks for it, or the pool is over by itself. It is helpless then.
func (d *Daemon) reasonToStop() (helpless bool) {
	select {
	case <-d.pool.asked:
		return false
	case over := <-d.pool.Over():
		d.pool.noteOver(over)
		return true
	}
}

// keepServing waits for --drain-delay. It reports whether the pool is over by
// itself before, so that no worker is left to serve.
func (d *Daemon) keepServing() (helpless bool) {
	if d.cfg.DrainDelay == 0 || d.pool.hurried.Err() != nil {
		return false
	}
	d.log.Info().Str("drain_delay", d.cfg.DrainDelay.String()).Msg("drain delay: still serving")
	delay := time.NewTimer(d.cfg.DrainDelay)
	defer delay.Stop()
	select {
	case over := <-d.pool.Over():
		d.pool.noteOver(over)
		return true
	case <-delay.C:
	case <-d.pool.hurried.Done():
	}
	return false
}

// drain has the messages handled that have arrived, and keeps some time for the
// workers to stop. It returns when no message is left, or no worker that could
// handle one. In a helpless pool what has arrived is only settled, in order.
func (d *Daemon) drain(helpless bool, deadline time.Time) {
	if !d.intake.takesMessages() || d.pool.hurried.Err() != nil {
		return
	}
	until := deadline.Add(-d.cfg.Pool.LastPart())
	overdue := time.NewTimer(time.Until(deadline)) // the drain hangs, on a disk for one
	defer overdue.Stop()
	look := time.NewTicker(backoffTick)
	defer look.Stop()
	var drained <-chan struct{}
	if helpless {
		drained = d.intake.drain(time.Now())
	} else {
		drained = d.intake.drain(until)
	}
	for helpless || !d.workersLost(until) {
		select {
		case <-look.C:
			continue
		case over := <-d.pool.Over():
			d.pool.noteOver(over)
		case <-drained:
		case <-overdue.C:
		case <-d.pool.hurried.Done():
		}
		return
	}
}

// workersLost starts workers that back off if messages wait for them. It reports
// whether no worker can start before the given time, so that there is nothing to
// wait for.
func (d *Daemon) workersLost(before time.Time) bool {
	if !d.intake.messagesWait() {
		return false
	}
	d.pool.SkipBackoff()
	if !d.pool.IsLost(before) {
		return false
	}
	d.log.Info().Str("why", "no worker can start before the deadline").Msg("stopping")
	return true
}

// stopWorkers returns when all workers are gone. The pool waits for none of them
// much longer than until the deadline.
func (d *Daemon) stopWorkers(deadline time.Time) supervisor.Result {
	d.pool.StopWorkers(deadline)
	return <-d.poolEnded
}

func (d *Daemon) runAtExit(deadline time.Time) {
	if d.atExit != nil {
		d.atExit.run(d.pool.hurried, deadline)
	}
}

func (d *Daemon) endRest(deadline time.Time) {
	d.reaper.EndRest(d.pool.hurried, max(time.Until(deadline), leastGrace))
}

func (d *Daemon) ignoreSignals() {
	close(d.signalsOff)
	d.listeners.Wait()
	d.pool.hurry() // it frees the context
}

func (d *Daemon) writeLastLines() {
	_ = d.relay.Close(lastLines) // a process that keeps a stream open is not a worker any more
	if lost := d.relay.Lost(); lost > 0 {
		d.log.Warn().Uint64("lost", lost).Msg("worker output lost: writing failed")
	}
}

func (d *Daemon) closeShares() {
	for _, s := range d.cfg.Share {
		s.Close()
	}
}
