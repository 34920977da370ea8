package supervisor

import (
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/reaper/awake"
)

// A Restart says after which exits a worker is replaced.
type Restart string

// The restart policies.
const (
	RestartAlways    Restart = "always"
	RestartOnFailure Restart = "on-failure"
	RestartNever     Restart = "never"
)

// A Readiness says when a worker counts as ready.
type Readiness string

// The ways to become ready.
const (
	ReadyAuto    Readiness = "auto"    // by READY=1, a message answered without failure, or having lived for MinReady
	ReadyNotify  Readiness = "notify"  // by READY=1, and having stayed up for MinReady after it
	ReadyStarted Readiness = "started" // by having been started, and having stayed up for MinReady
)

// A Config says how a pool behaves. What is zero is off, but for Workers,
// Restart, Ready, StopSignal and StopTimeout, which have no default here.
type Config struct {
	Workers int
	Restart Restart

	RestartDelay    time.Duration // the first wait of the exponential backoff
	RestartDelayMax time.Duration
	HealthyAfter    time.Duration // a worker that lived this long starts its backoff over
	GiveUp          int           // failures in a row of every worker; 0: never

	StopSignal  syscall.Signal
	StopAlone   bool          // StopSignal goes to the worker's process, and not to the rest of its group
	StopTimeout time.Duration // from the stop request to SIGKILL

	Ready        Readiness
	MinReady     time.Duration // see Ready; with ReadyAuto a tenth of it for those after a reload's first
	ReadyTimeout time.Duration // not ready by then: a failed start
	Watchdog     time.Duration // longest silence between two WATCHDOG=1

	TimeoutSignal syscall.Signal // for a worker that holds one message too long

	// Interactive says that the only worker has the foreground of a terminal: if
	// it dies of SIGINT or SIGQUIT, the user pressed Ctrl-C and wants the end.
	Interactive bool

	StartFirst     bool // replace by starting the new worker before the old one stops
	ReloadParallel Part // of the workers, which a reload replaces at a time after the first one
	MaxLifetime    time.Duration
	MaxMemory      uint64 // bytes of RSS

	// Awake says whether this program has slept while a deadline of a worker passed.
	// May be nil.
	Awake *awake.Watch
	// OnReload, if not nil, is told of each reload that ended. It must not block.
	OnReload func(ReloadResult)

	// Look says why no worker can be started now: a reload asks before it stops the
	// first one. May be nil. It may take long, on a disk.
	Look func() error
	// LastLines returns what a worker has last printed to stderr. May be nil.
	LastLines func(worker int) string
	// Background returns the processes, started since a time, that are no worker's and
	// were left to this program by their parents. May be nil.
	Background func(since time.Time) []string
	// Foreground says how the command is kept from putting itself into the background,
	// for the log; "": not known.
	Foreground string

	// ProcState returns the state of a process as ps shows it, for the log. May be
	// nil.
	ProcState func(pid int) string
	// Memory returns a process's RSS in bytes. Needed for MaxMemory only.
	Memory func(pid int) (uint64, error)
	// OOMKilled says whether the SIGKILL that a worker just died of was the
	// kernel's, because memory ran out. May be nil. It is called from any goroutine.
	OOMKilled func() bool
}

// killGrace is how long a process may take to die of SIGKILL, or of the signal
// for a hung worker. One that survives SIGKILL is given up then.
const killGrace = time.Second

// lastPart is the part of StopTimeout that is kept for the workers to stop when
// messages take up the rest, and lastPartMax its upper limit.
const (
	lastPart    = 8
	lastPartMax = time.Second
)

// LastPart is the time before SIGKILL that belongs to the workers' own end. A
// drain ends before it.
func (c *Config) LastPart() time.Duration { return min(c.StopTimeout/lastPart, lastPartMax) }

// shortLife is the life under which even a worker that ends well is started
// again only after a RestartDelay: a loop of exits must not burn CPU.
const shortLife = time.Second

// mostIdle is after how many lives in a row that were short, ended well and had
// answered nothing a slot counts each further one as a failure: the command puts
// itself into the background, or has nothing to do.
const mostIdle = 5

// memoryTick is how often the RSS of each worker is read, if there is a limit.
const memoryTick = time.Second

// A Part is a number, or a percentage of a number.
type Part struct {
	Number  int
	Percent int // if Number is 0
}

// Of returns how many of n that is, at least 1.
func (p Part) Of(n int) int {
	if p.Number > 0 {
		return p.Number
	}
	return max(n*p.Percent/100, 1)
}

// backoff returns how long to wait before the next start after a number of
// failures in a row (1 or more): RestartDelay, twice that, and so on, up to
// RestartDelayMax, each +-20 % so that workers that crash together come back at
// different times.
func (c *Config) backoff(failures int) time.Duration {
	d := c.RestartDelay
	for i := 1; i < failures && d < c.RestartDelayMax; i++ {
		d *= 2
	}
	return jitter(min(d, c.RestartDelayMax), 0.2)
}

// jitter returns d plus or minus up to the given part of it.
func jitter(d time.Duration, part float64) time.Duration {
	return d + time.Duration(float64(d)*part*(2*rand.Float64()-1))
}
