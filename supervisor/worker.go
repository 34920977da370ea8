package supervisor

import (
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// A worker is one process in a slot, from its start until nothing is left of
// it. Its slot gives it orders, and hears of it by two channels.
type worker struct {
	cfg    *Config
	proc   Process
	events Events
	log    zerolog.Logger
	began  time.Time
	hurry  <-chan struct{} // closed when everybody is to be killed at once
	orders chan order

	ready chan struct{} // closed when it counts as ready
	due   chan struct{} // closed when it has handled its share of messages
	loose chan struct{} // closed when it is detached
	gone  chan struct{} // closed when it and its group are gone
	end   ending        // whole when gone is closed

	mu    sync.Mutex
	state State
	since time.Time
	text  string // the last STATUS=
}

// An order asks a worker to stop.
type order struct {
	cause    Cause
	signal   syscall.Signal
	deadline time.Time // SIGKILL then
}

// A State is where a slot or worker is in its life.
type State string

// The states.
const (
	Starting State = "starting" // the process runs, but does not count as ready yet
	Ready    State = "ready"
	Loose    State = "detached" // it closed its channel, and lives on
	Stopping State = "stopping" // it was asked to stop, or said that it stops
	Backoff  State = "backoff"  // no process: it waits for the next start
	Ended    State = "stopped"  // no process, and none to come
)

func newWorker(cfg *Config, proc Process, log zerolog.Logger, hurry <-chan struct{}) *worker {
	w := &worker{
		cfg: cfg, proc: proc, events: proc.Events(), hurry: hurry,
		log:    log.With().Int("pid", proc.Info().PID).Logger(),
		began:  time.Now(),
		orders: make(chan order),
		ready:  make(chan struct{}),
		due:    make(chan struct{}),
		loose:  make(chan struct{}),
		gone:   make(chan struct{}),
	}
	w.enter(Starting)
	return w
}

// live is the worker's life. Everything that happens to it happens here.
func (w *worker) live() {
	o := w.serve()
	w.enter(Stopping)
	o = w.finish(o)
	w.reaped(o)
	w.sweep(o)
	close(w.gone)
}

// serve waits until the process exits, or there is a reason to stop it. The
// order is the zero one if it exited by itself.
func (w *worker) serve() order {
	t := w.newTimers()
	for {
		select {
		case <-w.events.Exited:
			return order{}
		case o := <-w.orders:
			return o
		case <-w.hurry:
			return order{cause: Stopped}
		case m, ok := <-w.events.Notices:
			if !ok {
				w.events.Notices = nil
				continue
			}
			w.noticed(m, t)
		case what := <-w.events.Asks:
			if o := w.asked(what, t); o.cause != "" {
				return o
			}
		case <-t.settled:
			t.settled, t.late = nil, nil
			w.becameReady()
		case <-t.late:
			w.log.Warn().Str("timeout", w.cfg.ReadyTimeout.String()).Msg("worker is not ready in time: stopping it")
			return w.orderNow(NotReady, w.cfg.StopSignal, w.cfg.StopTimeout)
		case <-t.watchdog.C:
			w.log.Warn().Str("silent_for", t.interval.String()).Msg("worker sent no WATCHDOG=1 in time: stopping it")
			return w.orderNow(Hung, syscall.SIGABRT, killGrace) // ABRT as systemd does: runtimes print a stack
		}
	}
}

func (w *worker) orderNow(cause Cause, sig syscall.Signal, grace time.Duration) order {
	return order{cause: cause, signal: sig, deadline: time.Now().Add(grace)}
}

func (w *worker) enter(s State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state, w.since = s, time.Now()
}

func (w *worker) current() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// nobody is for the slot's select: none of its channels ever fires.
var nobody = new(worker)

// orNobody returns w, or nobody.
func (w *worker) orNobody() *worker {
	if w == nil {
		return nobody
	}
	return w
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// closedChan is closed.
var closedChan = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
