package supervisor

import (
	"syscall"
	"time"

	"github.com/poolinit/poolinit/reaper/signals"
)

// Stats is a picture of a pool. Every count only grows.
type Stats struct {
	Began      time.Time // of Run
	Generation int       // of the workers that are started now
	Complete   bool      // every slot has had a ready worker, or was added to a pool in which that was so
	Stopping   string    // why the pool stops; "": it does not
	StopBegan  time.Time
	Wanted     int           // workers
	Workers    []WorkerStats // by slot: those that are wanted, and others whose worker still stops
	Exits      map[Cause]uint64
	Reload     ReloadStats
}

// WorkerStats is a picture of one slot.
type WorkerStats struct {
	ID         int
	PID        int // 0: there is no process, or (exec) none runs now
	Generation int // of the process
	State      State
	Since      time.Time // when State began
	Started    time.Time // the process; zero: there is none
	NextStart  time.Time // with Backoff
	Successor  int       // the PID of the process that is to replace this one; 0: none
	Detached   []int     // the PIDs of detached ones that still live
	Unkillable []int     // the PIDs of those that were given up because they survive SIGKILL
	Status     string    // the last STATUS= that the process sent
	Starts     uint64    // processes that were started
	Failures   int       // in a row
	Ended      Usage     // of all processes before this one
	LastExit   *Exit     // nil: none has ended yet
}

// Usage is what processes used up.
type Usage struct {
	CPU time.Duration
}

// An Exit is how a worker exited, or could not be started.
type Exit struct {
	Cause  Cause
	PID    int            // 0: it was not started
	Code   int            // if Signal is 0
	Signal syscall.Signal // or 0
	At     time.Time
	Uptime time.Duration
	Peak   uint64 // bytes of RSS, at most; 0: not known
	Text   string // all of it in words, as in the log
}

// SignalName returns "SIGKILL" and the like, or "".
func (e *Exit) SignalName() string {
	if e.Signal == 0 {
		return ""
	}
	return signals.Name(e.Signal)
}

// Ready reports whether the pool does its work, or why not: it is not stopping,
// every slot has had a ready worker, and one is ready now.
func (s *Stats) Ready() (ok bool, why string) {
	switch {
	case s.Stopping != "":
		return false, "the pool stops: " + s.Stopping
	case !s.Complete:
		return false, "not every worker has been ready yet"
	case s.countReady() == 0:
		return false, "no worker is ready"
	}
	return true, ""
}

// Running counts the slots that have a worker.
func (s *Stats) Running() (n int) {
	for i := range s.Workers {
		if !s.Workers[i].Started.IsZero() {
			n++
		}
	}
	return n
}

func (s *Stats) countReady() (n int) {
	for _, w := range s.Workers {
		if w.State == Ready {
			n++
		}
	}
	return n
}

// ReloadStats is a picture of a pool's reloads.
type ReloadStats struct {
	Running    bool
	Queued     bool // another one follows
	Generation int  // of the last one that began; 0: none has
	Began      time.Time
	Replaced   int // workers, in the last one that began
	Last       *ReloadResult
	Results    map[Outcome]uint64
}

func (r *ReloadStats) ended(result ReloadResult) {
	r.Running = false
	r.Last = &result
	r.Results[result.Outcome]++
}

// An Outcome is how a reload ended.
type Outcome string

// The outcomes.
const (
	Complete    Outcome = "done"
	Failed      Outcome = "failed"      // a new worker did not get ready, or died; the rest of the old ones stay
	Interrupted Outcome = "interrupted" // by the stop of the pool
)

// Outcomes returns every Outcome.
func Outcomes() []Outcome { return []Outcome{Complete, Failed, Interrupted} }

// A ReloadResult is how one reload ended.
type ReloadResult struct {
	Outcome    Outcome
	Reason     string // but for Complete
	LastLines  string // with Failed: what the worker at fault has last printed to stderr, if that is known
	Generation int    // 0: it never began
	Began      time.Time
	Took       time.Duration
}

// Causes returns every Cause.
func Causes() []Cause {
	return []Cause{
		Done, Crash, OOM, NotReady, Hung, Timeout, Protocol, Detach, Messages, Failing, Reloaded, Lifetime, Memory, Scaled, Stop, NoStart,
	}
}

// A record is what a slot knows of its workers so far.
type record struct {
	starts   uint64
	failures int // in a row

	idleLives int       // short lives in a row that ended well and had answered nothing
	idleFirst time.Time // when the first of them began

	used     Usage
	last     *Exit
	complete bool      // a worker was ready
	idle     State     // what the slot shows without a worker: Backoff or Stopped
	idleFrom time.Time // when the slot became empty
	startAt  time.Time // the next start
}

func (r *record) stats(id int) WorkerStats {
	return WorkerStats{
		ID: id, State: r.idle, Since: r.idleFrom, NextStart: r.startAt,
		Starts: r.starts, Failures: r.failures, Ended: r.used, LastExit: r.last,
	}
}

// ended keeps how a worker exited.
func (r *record) ended(end ending) {
	r.last = &Exit{
		Cause: end.cause, PID: end.pid, Code: end.exit.Code, Signal: end.exit.Signal, At: time.Now(), Uptime: end.uptime,
		Peak: end.exit.Peak, Text: end.String(),
	}
	r.complete = r.complete || end.wasReady
	r.used.CPU += end.used
}

// judged keeps what a verdict counted.
func (r *record) judged(v verdict, end ending) {
	r.failures = v.failures
	if r.idleLives = v.idle; v.idle == 1 {
		r.idleFirst = end.began
	}
}

func (r *record) emptied() { r.idleFrom, r.startAt = time.Now(), time.Time{} }

// entered keeps whether the slot is empty for good. A slot that the pool's stop
// halts shows what it did before.
func (r *record) entered(state slotState) {
	switch {
	case state == slotStopped, state == slotParked:
		r.idle, r.idleFrom = Stopped, time.Now()
	case state != slotHalted && r.idle == Stopped:
		r.idle, r.idleFrom = Backoff, time.Now()
	}
}

func cpu(r *syscall.Rusage) time.Duration {
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
