package daemon

import (
	"context"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper/awake"
	"github.com/poolinit/poolinit/reaper/signals"
	"github.com/poolinit/poolinit/supervisor"
)

// A requests is a pool as signals and the control socket see it. The first request
// begins the stop, which package daemon then carries out step by step (stop.go).
// Later ones change nothing: a preStop hook and the kubelet, or two operators, ask
// for the same stop. Only StopNow, which the second SIGINT asks for, kills the
// workers and hurries all that follows: nothing waits for clients or grace periods
// any longer.
type requests struct {
	*supervisor.Pool
	auto    *autoWorkers  // nil: --workers is a number
	timeout time.Duration // --stop-timeout
	signals Signals
	log     zerolog.Logger

	debounce   debounce // belongs to signal, and so does the next
	interrupts int      // SIGINTs that asked for a stop

	asked   chan struct{}      // closed by the first request
	hurried context.Context    // ended by StopNow
	hurry   context.CancelFunc // ends it

	mu       sync.Mutex
	began    time.Time        // the stop; zero: none has begun
	deadline time.Time        // of the stop
	why      string           // of the stop
	over     *supervisor.Over // why the pool had to stop by itself; nil: it was asked to
}

func newRequests(pool *supervisor.Pool, auto *autoWorkers, timeout time.Duration, sigs Signals, log zerolog.Logger) *requests {
	r := &requests{Pool: pool, auto: auto, timeout: timeout, signals: sigs.orDefault(), log: log, asked: make(chan struct{})}
	r.hurried, r.hurry = context.WithCancel(context.Background())
	return r
}

// Stop asks for the stop; why is for the log. It returns when the pool has been told,
// so that no reload which is asked for later comes first.
func (r *requests) Stop(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deadline.IsZero() {
		r.start(why)
		return
	}
	r.log.Info().Str("why", why).Str("remaining", max(0, time.Until(r.deadline)).Round(100*time.Millisecond).String()).
		Msg("already stopping; a second SIGINT or 'poolinit stop --now' kills the workers")
}

// StopNow asks for a stop that waits for nothing; why is for the log. It returns as
// Stop does.
func (r *requests) StopNow(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deadline.IsZero() {
		r.start(why)
	}
	if r.hurried.Err() == nil {
		r.killWorkers(why)
		r.hurry()
	}
}

// Reload replaces the workers, of which there are as many as --workers auto says by now.
func (r *requests) Reload(why string) {
	r.auto.follow(r.Workers(), r.Pool.Scale)
	r.Pool.Reload(why)
}

// ReloadWait is Reload for callers that wait for the result.
func (r *requests) ReloadWait(why string) <-chan supervisor.ReloadResult {
	r.auto.follow(r.Workers(), r.Pool.Scale)
	return r.Pool.ReloadWait(why)
}

// start begins the stop that a request asks for. With the mutex held.
func (r *requests) start(why string) {
	r.log.Info().Str("why", why).Str("timeout", r.timeout.String()).Msg("stopping")
	r.begin(why)
	close(r.asked)
}

// killWorkers kills the workers, if there are any left.
func (r *requests) killWorkers(why string) {
	select {
	case <-r.Done():
	default:
		r.log.Warn().Str("why", why).Msg("killing the workers now")
		r.StopWorkers(r.deadline)
		r.Kill()
	}
}

// noteOver notes that the pool has to stop by itself. A request may have been
// first.
func (r *requests) noteOver(over supervisor.Over) {
	if !over.Broken { // then the pool has said why
		r.log.Info().Str("why", over.Why).Msg("stopping")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deadline.IsZero() {
		r.over = &over
		r.begin(over.Why)
	}
}

// overItself returns why the pool had to stop by itself, or nil if it was asked to.
func (r *requests) overItself() *supervisor.Over {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over
}

func (r *requests) begin(why string) {
	r.why = why
	r.began = time.Now()
	r.deadline = r.began.Add(r.timeout)
	r.Halt(why)
}

// stopDeadline returns when the workers are killed.
func (r *requests) stopDeadline() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deadline
}

// extend grants the stop that is under way its time once more, because poolinit
// itself has slept.
func (r *requests) extend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.deadline.IsZero() {
		r.deadline = time.Now().Add(r.timeout)
	}
}

// newWatch returns what notices that poolinit has slept. extend is called then, in a
// goroutine of its own.
func newWatch(extend func(), log zerolog.Logger) *awake.Watch {
	return awake.New(time.Now, func(slept time.Duration) {
		log.Warn().Str("slept", slept.Round(time.Millisecond).String()).
			Msg("poolinit did not run for a while (paused, stopped or suspended), granting every deadline once more")
		go extend() // ends at once
	})
}

// stopBegan returns when the stop was asked for.
func (r *requests) stopBegan() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.began
}

// signal does what a signal asks for. One goroutine calls it.
func (r *requests) signal(sig syscall.Signal) {
	switch {
	case r.signals.Stop[sig]:
		if !r.debounce.repeats(sig, time.Now()) {
			r.stopBySignal(sig)
		}
	case r.signals.Reload[sig]:
		r.Reload(signals.Name(sig))
	case !signals.Own[sig]:
		if other, given := r.signals.Forward[sig]; !given {
			r.Forward(sig)
		} else if other != 0 {
			r.Forward(other)
		}
	}
}

// stopBySignal asks for a stop, or, at the second SIGINT, for one that kills: a
// person presses Ctrl-C twice, and no orchestrator sends it.
func (r *requests) stopBySignal(sig syscall.Signal) {
	if sig == syscall.SIGINT {
		if r.interrupts++; r.interrupts > 1 {
			r.StopNow(signals.Name(sig))
			return
		}
	}
	r.Stop(signals.Name(sig))
}

// Signals says what signals mean to a pool. Those that are in none of its sets are
// passed on to the workers, but for a few that are always the program's own
// (signals.Own). The zero value has the defaults.
type Signals struct {
	Stop    signals.Set
	Reload  signals.Set
	Forward map[syscall.Signal]syscall.Signal // what the workers get instead; 0: nothing
}

func (s Signals) orDefault() Signals {
	if s.Stop == (signals.Set{}) && s.Reload == (signals.Set{}) {
		s.Stop, s.Reload = signals.Stop, signals.Reload
	}
	return s
}

// A debounce recognises a signal that was sent twice for one request. timeout(1)
// does so: it signals its child, and then the group that the child is in.
type debounce struct {
	signal syscall.Signal // the last one that was not a repetition, and when it came
	at     time.Time
}

// debounceTime is how soon after a signal the same one is a repetition. It is too
// short for a person who asks a second time.
const debounceTime = 100 * time.Millisecond

// repeats notes a signal, and reports whether it repeats the last one.
func (d *debounce) repeats(sig syscall.Signal, at time.Time) bool {
	if sig == d.signal && at.Sub(d.at) < debounceTime {
		return true
	}
	d.signal, d.at = sig, at
	return false
}

// reason returns why the pool stops.
func (r *requests) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why
}
