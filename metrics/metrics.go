// Package metrics serves what there is to see of a pool by HTTP: Prometheus
// metrics, health for probes, and a page for people. It changes nothing, and
// costs nothing while nobody asks.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/supervisor"
)

// Options is what a Server shows.
type Options struct {
	View     *status.View
	Signals  func() map[string]uint64 // counts by name, of every name from the start
	Revision string                   // of the source; may be empty
	Go       string                   // the version of Go
	Errors   func(error)              // is told what goes wrong with single requests
}

// newGatherer returns the metrics of a pool, of this process and of its runtime.
// They are not in client_golang's default registry, to which anybody may add.
func newGatherer(o *Options, reloadTime prometheus.Histogram) *gatherer {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "poolinit_build_info", Help: "Always 1; the labels say what this is.",
		ConstLabels: prometheus.Labels{"version": o.View.Version, "revision": o.Revision, "goversion": o.Go},
	})
	info.Set(1)
	r := prometheus.NewRegistry()
	// The package of these two that is not called obsolete brings database/sql along.
	//lint:ignore SA1019 it would cost every start of PID 1
	r.MustRegister(info, reloadTime, prometheus.NewGoCollector(), prometheus.NewProcessCollector(prometheus.ProcessCollectorOpts{}))
	return &gatherer{o.View, o.Signals, r}
}

func newReloadTime() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "poolinit_reload_duration_seconds",
		Help:    "How long reloads took.",
		Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000},

		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
	})
}

// ReloadEnded notes how long a reload took. It is supervisor.Config's OnReload.
func (s *Server) ReloadEnded(r supervisor.ReloadResult) {
	s.reloadTime.Observe(r.Took.Seconds())
}
