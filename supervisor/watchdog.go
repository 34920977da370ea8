package supervisor

import (
	"time"

	"github.com/poolinit/poolinit/reaper/awake"
	"github.com/poolinit/poolinit/supervisor/notify"
)

// A watchdog is the time until the next WATCHDOG=1 is due. While the worker
// starts up it sleeps: a start may take longer than the work, and has
// ReadyTimeout.
type watchdog struct {
	awake    *awake.Watch
	timer    *awake.Timer  // nil: it does not run
	elapsed  chan struct{} // 1: of the timer, which never waits; nil: it does not run
	interval time.Duration
	isUp     bool // the worker's start is over
}

func (d *watchdog) wake() {
	d.isUp = true
	if d.interval > 0 {
		d.restart(d.interval)
	}
}

func (d *watchdog) heed(m notify.Message) {
	switch {
	case m.WatchdogInterval > 0:
		d.restart(m.WatchdogInterval)
	case m.WatchdogTrigger && d.interval > 0:
		d.run(0) // whether it is up or not
	case m.Watchdog && d.interval > 0:
		d.restart(d.interval)
	}
}

// restart begins the time anew. A watchdog that sleeps only keeps the interval.
func (d *watchdog) restart(interval time.Duration) {
	d.interval = interval
	if d.isUp {
		d.run(interval)
	}
}

func (d *watchdog) run(limit time.Duration) {
	d.stop()
	elapsed := make(chan struct{}, 1)
	d.elapsed, d.timer = elapsed, d.awake.AfterFunc(limit, func() { elapsed <- struct{}{} })
}

// stop ends the watch for good, or until it is restarted.
func (d *watchdog) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer, d.elapsed = nil, nil
	}
}
