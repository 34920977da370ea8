package metrics

import (
	"cmp"
	"math"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/metrics/status"
)

// A family is a metric, with all the values of its labels.
type family struct {
	name, help string
	kind       dto.MetricType
}

const (
	gauge     = dto.MetricType_GAUGE
	counter   = dto.MetricType_COUNTER
	histogram = dto.MetricType_HISTOGRAM
)

// A gatherer makes metrics of a snapshot for each scrape. It keeps nothing, so it
// costs nothing between two scrapes. It is not a Collector: the registry would send
// each sample through a channel, hash it and sort it, which takes as long as
// everything else together.
//
// Labels have few values: a worker's number, a source's name, and the fixed words of
// this program. A PID is not a label, because every restart would leave a series
// behind.
type gatherer struct {
	view    *status.View
	signals func() map[string]uint64
	rest    prometheus.Gatherer // the metrics of the process, its runtime and reloads
}

// newGatherer returns the metrics of a pool, of this process and of its runtime. They
// are not in client_golang's default registry, to which any package may add.
func newGatherer(o *Options, reloadTime prometheus.Histogram) *gatherer {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "poolinit_build_info", Help: "Always 1; the labels say what this is.",
		ConstLabels: prometheus.Labels{"version": o.View.Version, "revision": o.Revision, "goversion": o.Go},
	})
	info.Set(1)
	r := prometheus.NewRegistry()
	// Of these two, the package that is not called obsolete imports database/sql.
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

// Gather implements prometheus.TransactionalGatherer: the list is valid until done is
// called, and is then used for another scrape.
func (g *gatherer) Gather() (list []*dto.MetricFamily, done func(), err error) {
	out := outputs.Get().(*output)
	rest, err := g.rest.Gather()
	out.list = append(out.list, rest...)
	addPool(out, g.view, g.signals())
	slices.SortFunc(out.list, func(a, b *dto.MetricFamily) int { return cmp.Compare(*a.Name, *b.Name) })
	return out.list, out.release, err
}

// An output collects metrics. Outputs are used again: samples are most of the memory
// of a scrape, and allocating them each time made the garbage collector a quarter of
// its cost.
type output struct {
	list    []*dto.MetricFamily
	samples []sample
	used    int // of samples
}

var outputs = sync.Pool{New: func() any { return new(output) }}

// release returns the output for another scrape.
func (o *output) release() {
	clear(o.list)
	clear(o.samples[:o.used])
	o.list, o.used = o.list[:0], 0
	outputs.Put(o)
}

// take returns n empty samples.
func (o *output) take(n int) []sample {
	if o.used+n > len(o.samples) {
		o.samples, o.used = make([]sample, max(n, 2*len(o.samples))), 0 // those before stay with the list
	}
	o.used += n
	return o.samples[o.used-n : o.used]
}

// labels are the labels of one sample, in the order of their names.
type labels = []*dto.LabelPair

func label(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

// A sample is one number with all the structs that the format puts around it, in one
// piece of memory.
type sample struct {
	metric  dto.Metric
	counter dto.Counter
	gauge   dto.Gauge
	value   float64
}

// unknown is a value that is not known: it has no sample.
var unknown = math.NaN()

// add adds families that have the same labels. values returns, for the labels with
// index i, a number for each of the families, in their order.
func (o *output) add(families []family, all []labels, values func(i int) []float64) {
	first := len(o.list)
	for k := range families {
		f := &families[k]
		o.list = append(o.list, &dto.MetricFamily{Name: &f.name, Help: &f.help, Type: &f.kind, Metric: make([]*dto.Metric, 0, len(all))})
	}
	samples := o.take(len(all) * len(families))
	for i, labels := range all {
		for k, v := range values(i) {
			if math.IsNaN(v) {
				continue
			}
			s := &samples[i*len(families)+k]
			s.value, s.metric.Label = v, labels
			if families[k].kind == counter {
				s.counter.Value, s.metric.Counter = &s.value, &s.counter
			} else {
				s.gauge.Value, s.metric.Gauge = &s.value, &s.gauge
			}
			o.list[first+k].Metric = append(o.list[first+k].Metric, &s.metric)
		}
	}
}

func (o *output) addHistogram(f *family, h *dto.Histogram) {
	o.list = append(o.list, &dto.MetricFamily{Name: &f.name, Help: &f.help, Type: &f.kind, Metric: []*dto.Metric{{Histogram: h}}})
}

// addWords adds a family with one label, whose value is one of a few words.
func addWords[W ~string, N int | uint64](o *output, families []family, name string, words []W, counts map[W]N) {
	all := make([]labels, len(words))
	for i, word := range words {
		all[i] = labels{label(name, string(word))}
	}
	o.add(families, all, func(i int) []float64 { return []float64{float64(counts[words[i]])} })
}

// toPrometheus converts a histogram, with its classic and its native buckets, so that
// a server takes those that it supports. The const histograms of client_golang have
// one kind or the other. A zero threshold above 0 distinguishes an empty native
// histogram from none.
func toPrometheus(from *ipc.Histogram) *dto.Histogram {
	h := &dto.Histogram{
		SampleCount: new(from.Count), SampleSum: new(from.Seconds),
		Schema: new(int32(ipc.Schema)), ZeroThreshold: new(prometheus.DefNativeHistogramZeroThreshold), ZeroCount: new(uint64(0)),
	}
	sum := uint64(0)
	for i, n := range from.Classic {
		sum += n
		bound := math.Inf(1)
		if i < len(ipc.Bounds) {
			bound = ipc.Bounds[i]
		}
		h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: new(bound), CumulativeCount: new(sum)})
	}
	addNativeBuckets(h, from)
	return h
}

// addNativeBuckets adds the native buckets as the format has them: runs of neighbours,
// each with its distance from the run before, and each count as its difference from
// the count before.
func addNativeBuckets(out *dto.Histogram, from *ipc.Histogram) {
	next, before := 0, int64(0)
	for index, count := range from.Native {
		if n := len(out.PositiveSpan); n > 0 && index == next {
			*out.PositiveSpan[n-1].Length++
		} else {
			out.PositiveSpan = append(out.PositiveSpan, &dto.BucketSpan{Offset: new(int32(index - next)), Length: new(uint32(1))})
		}
		out.PositiveDelta = append(out.PositiveDelta, int64(count)-before)
		next, before = index+1, int64(count)
	}
}
