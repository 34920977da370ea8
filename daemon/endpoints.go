package daemon

import (
	"net"
	"runtime"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/metrics"
	"github.com/poolinit/poolinit/metrics/control"
	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/reaper/signals"
)

// complaintEvery is how often at most a failure that any client can cause is
// logged.
const complaintEvery = time.Minute

// endpoints are where a person or a program asks about the pool: by HTTP, and over
// the control socket.
type endpoints struct {
	http      *metrics.Server // nil: not asked for
	control   *control.Server // nil: it cannot be had
	noControl error           // why not
	log       zerolog.Logger
}

// newEndpoints returns the endpoints of a pool. ln may be nil.
func newEndpoints(ln net.Listener, cfg *Config, view *status.View, pool control.Pool, log zerolog.Logger) *endpoints {
	e := &endpoints{log: log}
	if ln != nil {
		failed := sometimes(log)
		e.http = metrics.New(ln, &metrics.Options{
			View: view, Signals: func() map[string]uint64 { return countSignals(cfg.Signals.orDefault()) }, Revision: cfg.Revision, Go: runtime.Version(), Hosts: cfg.httpHosts(),
			Errors: func(err error) { failed.Warn().Err(err).Msg("HTTP request failed") },
		})
	}
	denied := sometimes(log)
	refused := func(err error) { denied.Warn().Err(err).Msg("control socket: access denied") }
	e.control, e.noControl = control.Listen(view, pool, refused)
	return e
}

// sometimes returns a logger that drops most lines if there are many.
func sometimes(log zerolog.Logger) zerolog.Logger {
	return log.Sample(&zerolog.BurstSampler{Burst: 1, Period: complaintEvery})
}

// serve begins to answer. The pool need not run yet.
func (e *endpoints) serve() {
	if e.noControl != nil {
		e.log.Warn().Err(e.noControl).Msg("no control socket: status, reload, stop and health cannot find this pool")
	} else {
		e.control.Serve()
	}
	if e.http != nil {
		e.http.Serve()
		e.log.Info().Str("address", "http://"+e.http.Addr().String()).Msg("serving metrics, health and status over HTTP")
	}
}

// close ends the endpoints. It is the last step of a stop, so that the end of the
// pool can be watched.
func (e *endpoints) close() {
	if e.http != nil {
		e.http.Close()
	}
	if e.control != nil {
		e.control.Close()
	}
}

// countSignals returns how many signals came, by the names of those that poolinit
// acts on.
func countSignals(meaning Signals) map[string]uint64 {
	counts := map[string]uint64{"other": 0}
	for sig := range signals.RTMAX + 1 {
		n := signals.Early().Count(syscall.Signal(sig))
		switch {
		case meaning.Stop[sig], meaning.Reload[sig]:
			counts[signals.Name(sig)] = n
		case !signals.Own[sig]:
			counts["other"] += n
		}
	}
	return counts
}
