package main

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/metrics"
	"github.com/poolinit/poolinit/metrics/control"
	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/reaper/signals"
	"github.com/poolinit/poolinit/supervisor"
)

// complaints is how often a thing that anybody can cause is logged.
const complaints = time.Minute

// A lookout is where others look at the pool: by HTTP, and by the control
// socket.
type lookout struct {
	view    *status.View
	http    *metrics.Server // nil: not asked for
	control *control.Server // nil: there is none
	log     zerolog.Logger
}

// openLookout binds the address for HTTP. The view is filled before serve.
func openLookout(o *options, log zerolog.Logger) (*lookout, error) {
	l := &lookout{
		view: &status.View{
			Version: buildVersion(), PID: os.Getpid(), QueueMessages: o.queueMessages, QueueBytes: int(o.queueBytes),
		},
		log: log,
	}
	if o.http == "" {
		return l, nil
	}
	complain := sometimes(log)
	var err error
	l.http, err = metrics.Listen(o.http, &metrics.Options{
		View: l.view, Signals: countSignals, Revision: revision(), Go: runtime.Version(),
		Errors: func(err error) { complain.Warn().Err(err).Msg("a request by HTTP went wrong") },
	})
	return l, err
}

// sometimes returns a logger that lets a line through now and then.
func sometimes(log zerolog.Logger) zerolog.Logger {
	return log.Sample(&zerolog.BurstSampler{Burst: 1, Period: complaints})
}

// reloadEnded is for supervisor.Config.
func (l *lookout) reloadEnded() func(supervisor.ReloadResult) {
	if l.http == nil {
		return nil
	}
	return l.http.ReloadEnded
}

// serve begins to show a pool, which need not run yet.
func (l *lookout) serve(pool *stoppable) {
	l.view.Pool = pool.Pool
	complain := sometimes(l.log)
	refused := func(err error) { complain.Warn().Err(err).Msg("somebody was turned away from the control socket") }
	var err error
	if l.control, err = control.Listen(l.view, pool, refused); err != nil {
		l.log.Warn().Err(err).Msg("there is no control socket: status, reload, stop and health will not find this pool")
	} else {
		l.control.Serve()
	}
	if l.http != nil {
		l.http.Serve()
		l.log.Info().Str("address", "http://"+l.http.Addr().String()).Msg("serving metrics, health and status by HTTP")
	}
}

// close is the last that a pool does: until then it can be looked at.
func (l *lookout) close() {
	if l.http != nil {
		l.http.Close()
	}
	if l.control != nil {
		l.control.Close()
	}
}

// countSignals returns how many signals came, by the names of those that mean
// something here.
func countSignals() map[string]uint64 {
	counts := map[string]uint64{"other": 0}
	for sig := range signals.RTMAX + 1 {
		n := signals.Early().Count(syscall.Signal(sig))
		switch {
		case signals.Stop[sig], signals.Reload[sig]:
			counts[signals.Name(sig)] = n
		case !signals.Own[sig]:
			counts["other"] += n
		}
	}
	return counts
}
