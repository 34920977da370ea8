package supervisor

import (
	"maps"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/reaper/signals"
)

// Stats is a picture of a pool. Every count only grows.
type Stats struct {
	Began      time.Time // of Run
	Generation int       // of the workers that are started now
	Complete   bool      // every slot has had a ready worker
	Stopping   string    // why the pool stops; "": it does not
	StopBegan  time.Time
	Workers    []WorkerStats // by slot
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

// An Exit is how a worker ended, or could not be started.
type Exit struct {
	Cause  Cause
	PID    int            // 0: it was not started
	Code   int            // if Signal is 0
	Signal syscall.Signal // or 0
	At     time.Time
	Uptime time.Duration
	Peak   uint64 // bytes of RSS, at most
	Text   string // all of it in words, as in the log
}

// SignalName returns "SIGKILL" and the like, or "".
func (e *Exit) SignalName() string {
	if e.Signal == 0 {
		return ""
	}
	return signals.Name(e.Signal)
}

// Ready reports whether the pool does what it is there for, or why not: it is
// not stopping, every slot has had a ready worker, and one is ready now.
func (s *Stats) Ready() (ok bool, why string) {
	ready := 0
	for _, w := range s.Workers {
		if w.State == Ready {
			ready++
		}
	}
	switch {
	case s.Stopping != "":
		return false, "the pool stops: " + s.Stopping
	case !s.Complete:
		return false, "not every worker has been ready yet"
	case ready == 0:
		return false, "no worker is ready"
	}
	return true, ""
}

// Stats returns a picture of the pool. It may be called from any goroutine, and
// waits for nobody.
func (p *Pool) Stats() Stats {
	s := Stats{Generation: p.Generation(), Complete: true, Workers: make([]WorkerStats, len(p.slots))}
	for i, slot := range p.slots {
		var complete bool
		s.Workers[i], complete = slot.stats()
		s.Complete = s.Complete && complete
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Began, s.Stopping, s.StopBegan = p.public.began, p.public.stopping, p.public.stopBegan
	s.Exits = maps.Clone(p.public.exits)
	s.Reload = p.public.reload
	s.Reload.Results = maps.Clone(s.Reload.Results)
	return s
}

// public is what a pool shows.
type public struct {
	began     time.Time
	stopping  string
	stopBegan time.Time
	exits     map[Cause]uint64
	reload    ReloadStats
}

// Causes returns every Cause.
func Causes() []Cause {
	return []Cause{
		Done, Crash, OOM, NotReady, Hung, Timeout, Protocol, Detached, Messages, Reloaded, Lifetime, Memory, Stopped, NoStart,
	}
}

// States returns every State.
func States() []State { return []State{Starting, Ready, Loose, Stopping, Backoff, Ended} }

// record is what a slot knows of its workers so far.
type record struct {
	starts   uint64
	ended    Usage
	last     *Exit
	complete bool      // a worker was ready
	idleFrom time.Time // when the slot became empty
	startAt  time.Time // the next start
}

// stats returns a picture of the slot, and whether it has had a ready worker.
func (s *slot) stats() (WorkerStats, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := WorkerStats{
		ID: s.id, State: s.idle, Since: s.record.idleFrom, NextStart: s.record.startAt,
		Starts: s.record.starts, Failures: s.failures, Ended: s.record.ended, LastExit: s.record.last,
	}
	complete := s.record.complete
	if w := s.cur; w != nil {
		info := w.proc.Info()
		st.PID, st.Generation, st.Started, st.NextStart = info.PID, w.end.generation, w.began, time.Time{}
		st.State, st.Since, st.Status = w.show()
		st.Ended.CPU += info.CPU
		complete = complete || w.wasReady()
	}
	if s.next != nil {
		st.Successor = s.next.proc.Info().PID
	}
	for _, w := range s.loose {
		st.Detached = append(st.Detached, w.proc.Info().PID)
	}
	return st, complete
}

// show returns what others may see of a worker's own state.
func (w *worker) show() (State, time.Time, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state, w.since, w.text
}

// note keeps how a worker ended, for who asks.
func (s *slot) note(end ending) {
	exit := &Exit{
		Cause: end.cause, PID: end.pid, Code: end.exit.Code, Signal: end.exit.Signal, At: time.Now(), Uptime: end.uptime,
		Peak: uint64(end.exit.Rusage.Maxrss) << 10, Text: end.String(),
	}
	s.mu.Lock()
	s.record.last = exit
	s.record.complete = s.record.complete || end.wasReady
	s.record.ended.CPU += end.used
	s.mu.Unlock()
	s.pool.show(func(p *public) { p.exits[end.cause]++ })
}

// noteStart, noteEmpty and noteNextStart keep the rest of the record.
func (s *slot) noteStart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record.starts++
}

func (s *slot) noteEmpty() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record.idleFrom, s.record.startAt = time.Now(), time.Time{}
}

func (s *slot) noteNextStart(delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record.startAt = time.Now().Add(delay)
}

// setFailures is how life changes them; it may read them without the mutex.
func (s *slot) setFailures(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = n
}

// show changes what Stats shows.
func (p *Pool) show(change func(*public)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.public)
}

func cpu(r *syscall.Rusage) time.Duration {
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
