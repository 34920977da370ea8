package supervisor

import (
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ratelog"
	"github.com/poolinit/poolinit/supervisor/notify"
)

// A worker is one process in a slot, from its start until nothing is left of
// it. Its slot gives it orders, and hears of it by channels that are closed
// once.
type worker struct {
	cfg        *Config
	rules      *workerTable
	left       *leftovers
	slot       int
	proc       Process
	log        zerolog.Logger
	began      time.Time
	generation int
	minReady   time.Duration // as in Config, but for this worker
	orders     chan order

	ready    chan struct{} // closed when it counts as ready
	due      chan struct{} // closed when it has to be replaced for its messages
	dueFor   Cause         // why; set before due is closed
	detached chan struct{} // closed when it is detached
	gone     chan struct{} // closed when it and its group are gone
	end      ending        // whole when gone is closed

	proven <-chan struct{} // Events.Answered

	// What follows belongs to live. A nil channel is off.
	events      Events
	killAll     <-chan struct{} // closed when the pool kills all workers; nil once that was heard
	order       order           // why it has to stop; without a cause: it has ended by itself
	newOrder    order           // what orderedToStop is about
	answered    <-chan struct{} // closed when it has answered what it had in hand
	at          workerTimers
	wasDetached bool
	watchdog    watchdog

	statuses *ratelog.Log // a worker may send many

	mu       sync.Mutex // guards what follows for readers outside of live
	state    workerState
	shown    State
	since    time.Time // when shown began
	text     string    // the last STATUS=
	wasReady bool
}

// workerTimers are what a worker is watched by. A nil channel is off.
type workerTimers struct {
	settled  <-chan struct{} // it has stayed up for minReady
	late     <-chan struct{} // it should be ready by now
	lastPart <-chan struct{} // lastPart begins
	grace    <-chan struct{} // SIGKILL is due
	kill     <-chan struct{} // killGrace elapses
}

// An order asks a worker to stop.
type order struct {
	cause    Cause
	signal   syscall.Signal
	deadline time.Time // SIGKILL then
}

func newWorker(p *Pool, slot int, proc Process, minReady time.Duration, log zerolog.Logger) *worker {
	events := proc.Events()
	w := &worker{
		cfg: &p.cfg, rules: p.workerTable, left: p.left, slot: slot, proc: proc, events: events, proven: events.Answered, killAll: p.killing,
		minReady: minReady,
		log:      log.With().Int("pid", proc.Info().PID).Logger(),
		began:    time.Now(),
		orders:   make(chan order),
		ready:    make(chan struct{}),
		due:      make(chan struct{}),
		detached: make(chan struct{}),
		gone:     make(chan struct{}),
		watchdog: watchdog{awake: p.cfg.Awake, interval: p.cfg.Watchdog},
	}
	w.statuses = ratelog.Several(w.log, zerolog.InfoLevel, mostStatuses)
	if w.cfg.ReadyTimeout > 0 {
		w.at.late = w.cfg.Awake.After(w.cfg.ReadyTimeout)
	}
	w.enter(workerStarting)
	return w
}

// live is the worker's life: each event is looked up in workerRules.
func (w *worker) live() {
	w.start()
	for w.state != workerGone {
		w.apply(w.wait())
	}
}

// start begins the wait until the worker is ready. It is fed from now on, unless
// READY=1 alone makes it ready.
func (w *worker) start() {
	switch w.cfg.Ready {
	case ReadyNotify:
	case ReadyAuto:
		w.proc.Feed(false, w.began.Add(w.cfg.MinReady))
		w.at.settled = w.cfg.Awake.After(w.minReady)
	default:
		w.proc.Feed(false, time.Time{})
		w.apply(startedUp)
	}
}

func (w *worker) apply(e workerEvent) { w.rules.apply(w, w.state, e, w.enter) }

func (w *worker) handles(e workerEvent) bool { return w.rules.handles(w.state, e) }

func (w *worker) enter(s workerState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// A worker that announced its stop, and is then told to, begins to stop anew.
	if shown := s.shows(); shown != w.shown || w.state == workerLeaving {
		w.shown, w.since = shown, time.Now()
	}
	w.state = s
	w.wasReady = w.wasReady || s == workerReady
}

// wait returns the next event.
func (w *worker) wait() workerEvent {
	if w.state == workerReaping {
		return w.reap()
	}
	answered := listen(w.handles(answeredOne), w.proven)
	select {
	case <-answered: // first: what it has done since may be its end
		return answeredOne
	default:
	}
	select {
	case <-listen(w.handles(exited), w.events.Exited):
		return exited
	case <-listen(w.handles(groupGone), w.events.Gone):
		return groupGone
	case w.newOrder = <-w.orders:
		return orderedToStop
	case <-w.killAll:
		w.killAll = nil
		return orderedToDie
	case <-listen(w.handles(poolEnded), w.left.over):
		return poolEnded
	case m, ok := <-w.events.Notices: // read to the end: `poolinit notify` waits for that
		if !ok {
			w.events.Notices = nil
		}
		w.heed(m)
		return "" // heed has applied what it says
	case ask := <-w.events.Asks:
		return ask.event()
	case <-listen(w.handles(answeredAll), w.answered):
		return answeredAll
	case <-answered:
		return answeredOne
	case <-listen(w.handles(stayedUp), w.at.settled):
		return stayedUp
	case <-listen(w.handles(becameLate), w.at.late):
		return becameLate
	case <-listen(w.handles(missedWatchdog), w.watchdog.elapsed):
		return missedWatchdog
	case <-listen(w.handles(lastPartBegan), w.at.lastPart):
		return lastPartBegan
	case <-listen(w.handles(graceElapsed), w.at.grace):
		return graceElapsed
	case <-listen(w.handles(killGraceElapsed), w.at.kill):
		return killGraceElapsed
	}
}

// event returns what an ask means to a worker.
func (a Ask) event() workerEvent {
	switch a {
	case AskRecycle:
		return handledShare
	case AskFailing:
		return failedInRow
	case AskTimeout:
		return heldTooLong
	case AskDetach:
		return closedChannel
	}
	return brokeProtocol
}

// heed acts on what the worker said by sd_notify.
func (w *worker) heed(m notify.Message) {
	if m.Ready {
		w.heedReady()
	}
	if m.Stopping {
		w.apply(announcedStop)
	}
	w.noteStatus(m.Status)
	if w.handles(missedWatchdog) {
		w.watchdog.heed(m)
	}
}

func (w *worker) heedReady() {
	if w.cfg.Ready != ReadyNotify {
		w.proc.MarkReady()
	}
	w.apply(startedUp)
}

// mostStatuses is how many of them have a line of their own in ten seconds.
const mostStatuses = 3

// noteStatus keeps a STATUS=, if there is one.
func (w *worker) noteStatus(status string) {
	if status == "" {
		return
	}
	w.mu.Lock()
	w.text = status
	w.mu.Unlock()
	w.statuses.Add("worker status", func(e *zerolog.Event) { e.Str("status", status) })
}

// mustSettle reports whether the worker has to stay up before it is ready. Its
// start is over in any case, which wakes the watchdog. With ReadyAuto a worker
// that says that it is ready does not have to.
func (w *worker) mustSettle() bool { return w.minReady > 0 && w.cfg.Ready != ReadyAuto }

func (w *worker) settle() {
	w.watchdog.wake()
	w.at.settled = w.cfg.Awake.After(w.minReady)
}

func (w *worker) becomeReady() {
	w.watchdog.wake()
	w.at.late, w.at.settled = nil, nil
	if w.cfg.Ready == ReadyNotify {
		w.proc.Feed(true, time.Time{})
	}
	close(w.ready)
}

func (w *worker) stopFeeding() { w.proc.Finish() }

func (w *worker) isNotDue() bool { return w.dueFor == "" }

func (w *worker) becomeDue() {
	w.dueFor = Messages
	close(w.due)
}

func (w *worker) becomeDueByFailures() {
	w.log.Warn().Msg("worker failed too many messages in a row, replacing it")
	w.dueFor = Failing
	close(w.due)
}

// detach: the worker wants no more messages, and lives on. It may finish what it
// does, and nothing watches it any more.
func (w *worker) detach() {
	w.log.Info().Msg("worker closed its channel, it is now detached")
	w.at.late = nil
	w.watchdog.stop()
	w.watchdog, w.wasDetached = watchdog{}, true
	close(w.detached)
}

func (w *worker) stopForReadyTimeout() {
	w.log.Warn().Str("timeout", w.cfg.ReadyTimeout.String()).Msg("worker was not ready in time, stopping it")
	w.newOrder = w.orderNow(NotReady, w.cfg.StopSignal, w.cfg.StopTimeout)
	w.finish()
}

// finish tells a worker to stop by the end of its input. It is signalled only
// when it has answered what it has in hand, or when only the last part of its
// time is left: signals interrupt what user code is waiting for.
func (w *worker) finish() {
	w.setOrder(w.newOrder)
	w.answered = w.proc.Finish()
}

func (w *worker) stopForWatchdog() {
	w.log.Warn().Str("silent_for", w.watchdog.interval.String()).Msg("worker missed its watchdog deadline, stopping it")
	w.signalNow(Hung, syscall.SIGABRT, killGrace) // ABRT as systemd does: runtimes print a stack
}

func (w *worker) stopForTimeout() {
	w.log.Warn().Msg("worker exceeded the message timeout, stopping it")
	w.signalForTimeout()
}

func (w *worker) signalForTimeout() { w.signalNow(Timeout, w.cfg.TimeoutSignal, killGrace) }

func (w *worker) stopForProtocol() { w.signalNow(Protocol, w.cfg.StopSignal, w.cfg.StopTimeout) }

// signalNow stops a worker that has no time to answer what it has in hand.
func (w *worker) signalNow(cause Cause, sig syscall.Signal, grace time.Duration) {
	w.setOrder(w.orderNow(cause, sig, grace))
	w.proc.Finish()
	w.signalOrder()
}

func (w *worker) orderNow(cause Cause, sig syscall.Signal, grace time.Duration) order {
	return order{cause: cause, signal: sig, deadline: time.Now().Add(grace)}
}

func (w *worker) setOrder(o order) {
	w.order = o
	w.setDeadline(o.deadline)
}

func (w *worker) setDeadline(deadline time.Time) {
	w.order.deadline = deadline
	left := time.Until(deadline)
	w.at.grace, w.at.lastPart = w.cfg.Awake.After(left), w.cfg.Awake.After(left-w.cfg.LastPart())
}

// signalOrder sends the signal of the order. With StopAlone the one that asks a
// worker to stop goes to its process: that one ends its children itself.
func (w *worker) signalOrder() {
	switch {
	case w.order.signal == 0:
	case w.cfg.StopAlone && w.order.signal == w.cfg.StopSignal:
		w.signal(Alone, w.order.signal)
	default:
		w.signalGroup(w.order.signal)
	}
}

// shortenGrace: another order can only make a worker stop sooner.
func (w *worker) shortenGrace() {
	if w.newOrder.deadline.Before(w.order.deadline) {
		w.setDeadline(w.newOrder.deadline)
	}
}

// reap notes how the process ended. What it had in hand goes to other workers
// before its group is swept.
func (w *worker) reap() workerEvent {
	w.noteEnd(w.proc.Info())
	select {
	case <-w.events.Gone:
		return groupGone
	default:
		return groupLeft
	}
}

func (w *worker) noteEnd(info ProcessInfo) {
	w.end.generation = w.generation
	w.end.pid, w.end.exit, w.end.began, w.end.uptime = info.PID, info.Exit, w.began, time.Since(w.began)
	if w.end.used = info.CPU; w.end.used == 0 {
		w.end.used = cpu(&w.end.exit.Rusage)
	}
	switch {
	case w.order.cause != "":
		w.end.cause = w.order.cause
	case w.wasDetached:
		w.end.cause = Detach
	default:
		w.end.cause = ownDoing(w.end.exit, w.cfg.OOMKilled)
	}
	w.end.life = w.proc.Release("the worker "+w.end.String(), w.end.byPool(w.cfg.StopSignal))
	w.noteLateAnswer()
	w.end.wasReady = w.wasReady
	w.end.healthy = w.end.life.Answered || w.isStarted() && w.end.uptime >= w.cfg.HealthyAfter
}

// noteLateAnswer: a worker that ends right after its first answer has been ready,
// whatever was heard first. Release has read all that it answered.
func (w *worker) noteLateAnswer() {
	if w.cfg.Ready != ReadyAuto || w.wasReady {
		return
	}
	select {
	case <-w.proven:
		w.mu.Lock()
		w.wasReady = true
		w.mu.Unlock()
		close(w.ready)
	default:
	}
}

func (w *worker) sayGone() { close(w.gone) }

// stop asks the worker to stop. It returns at once; gone tells when it did.
func (w *worker) stop(o order) {
	select {
	case w.orders <- o:
	case <-w.gone:
	}
}

// hasBeenReady and shows are for other goroutines.
func (w *worker) hasBeenReady() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wasReady
}

// isStarted reports whether the worker's life counts for HealthyAfter: one that
// has to say that it is ready has shown nothing before it has.
func (w *worker) isStarted() bool { return w.cfg.Ready != ReadyNotify || w.hasBeenReady() }

// shows returns the worker's state, when it began, and its STATUS=.
func (w *worker) shows() (State, time.Time, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shown, w.since, w.text
}
