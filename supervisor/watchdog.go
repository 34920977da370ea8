package supervisor

import (
	"time"

	"github.com/poolinit/poolinit/supervisor/notify"
)

// A watchdog is the time until the next WATCHDOG=1 is due. While the worker
// starts up it sleeps: a start may take longer than the work, and has
// ReadyTimeout.
type watchdog struct {
	timer    *time.Timer // nil: it does not run
	interval time.Duration
	awake    bool
}

func (d *watchdog) elapsed() <-chan time.Time {
	if d.timer == nil {
		return nil
	}
	return d.timer.C
}

func (d *watchdog) wake() {
	d.awake = true
	if d.interval > 0 {
		d.restart(d.interval)
	}
}

func (d *watchdog) heed(m notify.Message) {
	switch {
	case m.WatchdogInterval > 0:
		d.restart(m.WatchdogInterval)
	case m.WatchdogTrigger && d.interval > 0:
		d.timer = time.NewTimer(0) // awake or not
	case m.Watchdog && d.interval > 0:
		d.restart(d.interval)
	}
}

// restart begins the time anew. A watchdog that sleeps only keeps the interval.
func (d *watchdog) restart(interval time.Duration) {
	d.interval = interval
	switch {
	case !d.awake:
	case d.timer == nil:
		d.timer = time.NewTimer(interval)
	default:
		d.timer.Reset(interval)
	}
}
