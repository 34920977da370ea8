package supervisor

import (
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/reaper/signals"
)

// A Cause is why a worker exited.
type Cause string

// The causes. Done and Detach are the worker's own doing, and not failures. The
// method failure says which ones are. The others are the pool's.
const (
	Done     Cause = "done"      // it exited with code 0 by itself
	Crash    Cause = "crash"     // it exited with another code or died of a signal, by itself
	OOM      Cause = "oom"       // the kernel killed it because memory ran out
	NotReady Cause = "not-ready" // it was not ready in time
	Hung     Cause = "watchdog"  // its WATCHDOG=1 did not come in time
	Timeout  Cause = "message-timeout"
	Protocol Cause = "protocol" // its replies make no sense
	Detach   Cause = "detach"   // it had closed its channel, and went on without
	Messages Cause = "max-messages"
	Failing  Cause = "max-failures" // it failed at too many messages in a row
	Reloaded Cause = "reload"
	Lifetime Cause = "max-lifetime"
	Memory   Cause = "max-memory"
	Scaled   Cause = "scale" // the pool was scaled down
	Stop     Cause = "stop"
	NoStart  Cause = "start" // it could not be started at all
)

// failure reports whether a worker that ended so has failed.
func (c Cause) failure() bool {
	switch c {
	case Crash, OOM, NotReady, Hung, Timeout, Protocol, NoStart:
		return true
	}
	return false
}

// byPool reports whether the pool has ended a worker that was not to blame: it died of
// what it was sent for that, or obeyed. A crash on the way is its own doing.
func (e ending) byPool(stop syscall.Signal) bool {
	switch e.cause {
	case Reloaded, Lifetime, Memory, Messages, Failing, Scaled, Stop:
		status := e.exit.Status()
		return status == 0 || status == 128+int(stop) || status == 128+int(syscall.SIGKILL)
	}
	return false
}

// An ending is the end of a worker, or of the attempt to start one.
type ending struct {
	cause  Cause
	pid    int
	exit   reaper.Exit
	began  time.Time
	uptime time.Duration
	err    error // with NoStart

	generation int
	reloaded   bool // a reload had started it
	killed     bool // it took SIGKILL to end it
	givenUp    bool // it survived that
	idle       bool // one more in a row that ended well at once, and had answered nothing
	leftGroup  bool // it ended by itself, and left others in its group
	healthy    bool // it has answered a message, or lived for HealthyAfter
	wasReady   bool
	life       Life
	used       time.Duration // CPU
}

// blamesMessage reports whether a failure is the fault of a message: it took too
// long, or the worker died with it in hand.
func (e ending) blamesMessage() bool {
	switch e.cause {
	case Timeout:
		return true
	case Crash, OOM, Hung:
		return e.life.Held
	}
	return false
}

// countsForGiveUp reports whether a failure is one more in a row. That is so for
// a death by a message only if nothing shows that workers can handle any: this
// one has answered none, nor has another one since this one began.
func (e ending) countsForGiveUp() bool {
	if !e.blamesMessage() {
		return true
	}
	return e.cause != Timeout && !e.life.Answered && !e.life.LastAnswer.After(e.began)
}

// failsReload reports whether the end of a new worker, ready or not yet, ends the
// reload that has started it. A worker that has answered a message is as good as
// the old ones, and a message that takes too long says nothing about it.
func (e ending) failsReload() bool {
	return e.cause.failure() && e.cause != Timeout && !e.healthy
}

// failed reports whether the slot has failed by this end.
func (e ending) failed() bool { return e.cause.failure() || e.idle }

// code is what a shell would call the exit code; for a failure it is never 0.
func (e ending) code() int {
	switch {
	case e.err != nil:
		return reaper.ExitCode(e.err)
	case e.exit.Status() == 0 && e.failed():
		return 1 // stopped because it failed, and obeyed well
	}
	return e.exit.Status()
}

// interrupted reports whether it died of what a terminal's keys send.
func (e ending) interrupted() bool {
	return e.cause == Crash && (e.exit.Signal == syscall.SIGINT || e.exit.Signal == syscall.SIGQUIT)
}

// what is the log message for it.
func (e ending) what() string {
	if e.err != nil {
		return "cannot start worker"
	}
	if e.givenUp {
		return "worker given up"
	}
	return "worker exited"
}

// String says it in words: "exited with code 3 after 20ms (crash)".
func (e ending) String() string {
	switch {
	case e.err != nil:
		return e.err.Error()
	case e.givenUp:
		return fmt.Sprintf("survived SIGKILL after %s (%s)", round(e.uptime), e.cause)
	case e.exit.Signal != 0:
		return fmt.Sprintf("died of %s after %s (%s)", signals.Name(e.exit.Signal), round(e.uptime), e.cause)
	}
	return fmt.Sprintf("exited with code %d after %s (%s)", e.exit.Code, round(e.uptime), e.cause)
}

// log adds what an operator wants to know to a line.
func (e ending) log(line *zerolog.Event) *zerolog.Event {
	line = line.Str("why", string(e.cause))
	if e.err != nil {
		return line.Err(e.err)
	}
	line = line.Int("pid", e.pid)
	if e.givenUp {
		return line.Str("uptime", round(e.uptime))
	}
	if e.exit.Signal != 0 {
		line = line.Str("signal", signals.Name(e.exit.Signal))
	} else {
		line = line.Int("code", e.exit.Code)
	}
	if e.exit.Core {
		line = line.Bool("core", true)
	}
	line = line.Str("uptime", round(e.uptime))
	if e.exit.Peak > 0 {
		line = line.Str("peak_memory", size(e.exit.Peak))
	}
	return line
}

// ownDoing is the cause where the pool had no part in it.
func ownDoing(exit reaper.Exit, oomKilled func() bool) Cause {
	switch {
	case exit.Signal == syscall.SIGKILL && oomKilled != nil && oomKilled():
		return OOM
	case exit.Status() == 0:
		return Done
	}
	return Crash
}

// round writes a duration with the digits that matter to people.
func round(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func size(bytes uint64) string {
	return strconv.FormatFloat(float64(bytes)/(1<<20), 'f', 1, 64) + "MiB"
}
