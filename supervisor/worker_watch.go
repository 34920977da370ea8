package supervisor

import (
	"time"

	"github.com/poolinit/poolinit/supervisor/notify"
)

// timers are what a running worker is watched by. A nil channel is off.
type timers struct {
	settled  <-chan time.Time // it has stayed up for MinReady
	late     <-chan time.Time // it should be ready by now
	watchdog *time.Timer
	interval time.Duration // of the watchdog
	awake    bool          // the watchdog may run: the worker has started up
}

func (w *worker) newTimers() *timers {
	t := &timers{watchdog: new(time.Timer), interval: w.cfg.Watchdog}
	if w.cfg.ReadyTimeout > 0 {
		t.late = time.After(w.cfg.ReadyTimeout)
	}
	if !w.cfg.ReadyNotify {
		w.started(t)
	}
	return t
}

// watch has the watchdog begin anew. While the worker starts up it sleeps: a
// start may take longer than the work, and has ReadyTimeout.
func (t *timers) watch(interval time.Duration) {
	if !t.awake {
		t.interval = interval
		return
	}
	if interval != t.interval || t.watchdog.C == nil {
		t.interval = interval
		t.watchdog = time.NewTimer(interval)
		return
	}
	t.watchdog.Reset(interval)
}

// started begins the time that the worker must stay up to count as ready, and
// wakes the watchdog.
func (w *worker) started(t *timers) {
	t.awake = true
	if t.interval > 0 {
		t.watch(t.interval)
	}
	if w.cfg.MinReady > 0 {
		t.settled = time.After(w.cfg.MinReady)
		return
	}
	t.late = nil
	w.becameReady()
}

func (w *worker) becameReady() {
	w.enter(Ready)
	w.proc.Feed()
	close(w.ready)
}

// asked acts on what the worker's channel wants. The order is the zero one if
// the worker goes on.
func (w *worker) asked(what Ask, t *timers) order {
	switch what {
	case AskRecycle:
		close(w.due)
	case AskDetach:
		w.detached(t)
	case AskTimeout:
		w.log.Warn().Msg("worker holds a message for too long: stopping it")
		return w.orderNow(Timeout, w.cfg.TimeoutSignal, killGrace)
	case AskBroken:
		return w.orderNow(Protocol, w.cfg.StopSignal, w.cfg.StopTimeout)
	}
	return order{}
}

// detached: the worker wants no more messages, and lives on. It may finish what
// it does; nobody watches it any more.
func (w *worker) detached(t *timers) {
	w.log.Info().Msg("worker closed its channel and is detached")
	w.enter(Loose)
	t.late, t.settled = nil, nil
	t.watchdog, t.interval, t.awake = new(time.Timer), 0, false // its channel is nil
	close(w.loose)
}

func (w *worker) wasReady() bool { return isClosed(w.ready) }

// noticed acts on what the worker said by sd_notify.
func (w *worker) noticed(m notify.Message, t *timers) {
	if m.Ready && w.cfg.ReadyNotify && w.current() == Starting && t.settled == nil {
		w.started(t)
	}
	if m.Stopping {
		t.settled = nil // it would be ready again
		w.enter(Stopping)
		w.proc.Finish()
	}
	w.says(m.Status)
	switch {
	case m.WatchdogInterval > 0:
		t.watch(m.WatchdogInterval)
	case m.WatchdogTrigger && t.interval > 0:
		t.watchdog = time.NewTimer(0) // awake or not
	case m.Watchdog && t.interval > 0:
		t.watch(t.interval)
	}
}

// says notes a STATUS=, if there is one.
func (w *worker) says(status string) {
	if status == "" {
		return
	}
	w.mu.Lock()
	w.text = status
	w.mu.Unlock()
	w.log.Info().Str("status", status).Msg("worker says")
}
