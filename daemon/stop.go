package daemon

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
)

// lastLines is how long the end waits for output that is read slowly, or not at
// all. What is not written by then is lost.
const lastLines = time.Second

// restGrace is how long processes that are left over, and are not a worker's, get
// between TERM and KILL: such as the shell of docker exec, which ignores TERM.
// leastGrace is how long they get even if --stop-timeout has elapsed.
const (
	restGrace  = 2 * time.Second
	leastGrace = 100 * time.Millisecond
)

// Each step has a limit of its own. overrun is how long after that limit, or after
// a request to kill, the stop goes on without it: it hangs then, on a disk, on
// the kernel, or on what a stranger holds.
const overrun = 500 * time.Millisecond

// hurriedStep is the limit of every step after a request to kill.
const hurriedStep = 2 * time.Second

// lastResort is how long after the deadline, or after a request to kill, the
// process ends, whatever hangs. The limits of all steps together are shorter.
const lastResort = 5 * time.Second

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
		EndRest(hurried context.Context, grace time.Duration, tell func(left []reaper.Left, sig syscall.Signal))
		Close()
	}
)

// Stop is the whole order of a stop. The pool is not ready any more when it
// begins; helpless says that it stops by itself and can handle no message. Each
// step that waits ends at its deadline at the latest, and one that hangs is left
// behind. A request to kill (requests.StopNow) kills the workers and ends this
// wait and all later ones early. Stop returns the exit code.
func (d *Daemon) Stop(helpless bool) (code int) {
	d.step("service manager", 0, func() { d.manager.stop(d.pool.reason()) })
	// What waits because of a pause is delivered while there is time.
	d.intake.resume()
	// Others hear of the stop first, so the pool still serves.
	lost := d.intake.totals().Lost
	helpless = helpless || d.keepServing()
	// The sources close. What has arrived is handled, and what comes later is
	// answered "stopping".
	d.drain(helpless)
	// The workers stop: the end of their input and the stop signal, all at once,
	// and SIGKILL at the deadline.
	pool := d.stopWorkers()
	// Clients read how their messages ended, and their connections are closed.
	d.closeSources()
	// The command at exit runs when nothing else of the pool does.
	d.runAtExit()
	// What is left in the namespace ends, by TERM and KILL.
	d.endRest()
	// No signal can hurry anything any more.
	d.ignoreSignals()
	// The last lines of the workers, and the last one of the log.
	d.writeLastLines()
	code = d.exitCode(pool, lost)
	d.logEnd(code, pool.Killed)
	// The terminal goes back to the shell. The endpoints close late, so that a last
	// scrape sees the end.
	d.step("terminal", 0, d.terminal.Close)
	d.step("endpoints", time.Second, d.endpoints.close)
	d.step("shared sockets", 0, d.closeShares)
	d.step("reaper", 0, d.reaper.Close)
	return code
}

// exitCode returns the exit code of a stop: what poolinit could not do at all goes
// before lost messages, and these before how the workers ended. What was lost before
// the stop, such as a message that was too long, does not count.
func (d *Daemon) exitCode(pool supervisor.Result, lostBefore uint64) int {
	if lost := d.intake.totals().Lost > lostBefore; lost && !d.cfg.LostOK && !pool.Final {
		return lostCode
	}
	return pool.Code
}

// step does something that takes no longer than limit, unless it hangs. Then it is
// left behind, which the log says. After a request to kill it hangs sooner:
// what it waits for on purpose it does not wait for then.
func (d *Daemon) step(name string, limit time.Duration, do func()) {
	done := make(chan struct{})
	go func() { // ends with the step; one that hangs ends with the program
		defer close(done)
		do()
	}()
	began, late := time.Now(), d.awake.After(limit+overrun)
	hurried := d.pool.hurried.Done()
	for {
		select {
		case <-done:
			return
		case <-hurried:
			hurried, late = nil, d.awake.After(min(limit-time.Since(began), hurriedStep)+overrun)
		case <-late:
			d.log.Warn().Str("step", name).Msg("the stop hangs in one of its steps, going on without it")
			return
		}
	}
}

// stopAtLast is Stop, but returns at lastResort whatever hangs.
func (d *Daemon) stopAtLast(helpless bool) (code int) {
	stopped := make(chan int, 1) // 1: it may be ended by the last resort
	go func() { stopped <- d.Stop(helpless) }()
	late := d.awake.After(time.Until(d.pool.stopDeadline()) + lastResort)
	hurried := d.pool.hurried.Done()
	for {
		select {
		case code := <-stopped:
			return code
		case <-hurried:
			hurried, late = nil, d.awake.After(min(time.Until(d.pool.stopDeadline()), 0)+lastResort)
		case <-late:
			d.log.Error().Str("after", lastResort.String()).Msg("the stop hangs, ending the process")
			d.logEnd(killedCode, 0)
			return killedCode
		}
	}
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
	delay := d.awake.After(d.cfg.DrainDelay)
	select {
	case over := <-d.pool.Over():
		d.pool.noteOver(over)
		return true
	case <-delay:
	case <-d.pool.hurried.Done():
	}
	return false
}

// drain has the messages handled that have arrived, and keeps some time for the
// workers to stop. It returns when no message is left, or no worker that could
// handle one. In a helpless pool what has arrived is only settled, in order.
func (d *Daemon) drain(helpless bool) {
	if !d.intake.takesMessages() || d.pool.hurried.Err() != nil {
		return
	}
	deadline := d.pool.stopDeadline()
	until := deadline.Add(-d.cfg.Pool.LastPart())
	overdue := d.awake.After(time.Until(deadline)) // the drain hangs, on a disk for one
	look := time.NewTicker(backoffTick)
	defer look.Stop()
	var drained <-chan struct{}
	if helpless {
		drained = d.intake.drain(time.Now())
	} else {
		drained = d.intake.drain(until)
	}
	for helpless || !d.workersLost() {
		select {
		case <-look.C:
			continue
		case over := <-d.pool.Over():
			d.pool.noteOver(over)
		case <-drained:
		case <-overdue:
		case <-d.pool.hurried.Done():
		}
		return
	}
}

// workersLost starts workers that back off if messages wait for them. It reports
// whether no worker can start while there is time, so that there is nothing to wait
// for.
func (d *Daemon) workersLost() bool {
	if !d.intake.messagesWait() {
		return false
	}
	d.pool.SkipBackoff()
	if !d.pool.IsLost(d.pool.stopDeadline().Add(-d.cfg.Pool.LastPart())) {
		return false
	}
	d.log.Info().Str("why", "no worker can start before the deadline").Msg("stopping")
	return true
}

// stopWorkers returns when all workers are gone. The pool waits for none of them
// longer than until a second after SIGKILL, and a second more for their groups.
func (d *Daemon) stopWorkers() supervisor.Result {
	deadline := d.pool.stopDeadline()
	ended := make(chan supervisor.Result, 1) // 1: the step may be left behind
	d.step("workers", time.Until(deadline)+2*time.Second, func() {
		d.pool.StopWorkers(deadline)
		ended <- <-d.poolEnded
	})
	select {
	case result := <-ended:
		return result
	default:
		return supervisor.Result{Code: killedCode}
	}
}

func (d *Daemon) closeSources() {
	deadline := d.pool.stopDeadline()
	d.step("sources", max(time.Until(deadline), spoolGrace+leastGrace), func() { d.intake.close(d.pool.hurried, deadline) })
}

func (d *Daemon) runAtExit() {
	if d.atExit != nil {
		deadline := d.pool.stopDeadline()
		d.step("exit command", max(time.Until(deadline), leastAtExit)+lastAtExit, func() { d.atExit.run(d.pool.hurried, deadline) })
	}
}

func (d *Daemon) endRest() {
	grace := max(min(time.Until(d.pool.stopDeadline()), restGrace), leastGrace)
	d.step("other processes", grace+time.Second, func() { d.reaper.EndRest(d.pool.hurried, grace, d.tellRest) })
}

// mostNamed is how many of the processes that are left over the log names.
const mostNamed = 10

// tellRest logs which processes get a signal because they are left over.
func (d *Daemon) tellRest(left []reaper.Left, sig syscall.Signal) {
	line, text := d.log.Info(), "processes are left that are not a worker's, stopping them"
	if sig == syscall.SIGKILL {
		line, text = d.log.Warn(), "processes that are not a worker's did not stop in time, killing them"
	}
	line.Strs("processes", names(left)).Int("count", len(left)).Msg(text)
}

// names returns the names of processes, but not of too many.
func names(left []reaper.Left) (names []string) {
	for _, p := range left[:min(len(left), mostNamed)] {
		names = append(names, fmt.Sprintf("%s (%d)", p.Name, p.PID))
	}
	return names
}

func (d *Daemon) ignoreSignals() {
	close(d.signalsOff)
	d.step("signals", 0, d.listeners.Wait)
	d.pool.hurry() // it frees the context
}

func (d *Daemon) logEnd(code, killed int) {
	last := end{code, killed, d.pool.Left(), d.intake.totals(), d.pool.stopBegan()}
	d.writeTerminationLog(last.String())
	logEnd(d.log, last)
}

// writeTerminationLog writes the last line of the log, the reason for an end that
// was not asked for, and the last lines of the worker that was its cause.
func (d *Daemon) writeTerminationLog(lastLine string) {
	over := d.pool.overItself()
	var lines string
	if over != nil && over.Worker >= 0 {
		lines = d.relay.Tail(over.Worker)
	}
	terminationLog{d.cfg.TerminationLog, d.log}.write(lastLine+reason(over), lines)
}

func (d *Daemon) writeLastLines() {
	d.step("output", lastLines, func() { _ = d.relay.Close(lastLines) }) // a process that keeps a stream open is not a worker any more
	if lost := d.relay.Lost(); lost > 0 {
		d.log.Warn().Uint64("lost", lost).Msg("worker output lost: writing failed")
	}
}

func (d *Daemon) closeShares() {
	for _, s := range d.cfg.Share {
		s.Close()
	}
}
