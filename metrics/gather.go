package metrics

import (
	"cmp"
	"math"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

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

// A gatherer makes metrics of a snapshot when it is asked for them. It keeps
// nothing, so there is nothing to pay for between two scrapes. It is no
// Collector: the registry would put each sample through a channel, hash and sort
// it, which takes as long as all the rest.
//
// Labels have few values: a worker's number, a source's name, and the fixed words
// of this program. A PID is none, as every restart would leave a series behind.
type gatherer struct {
	view    *status.View
	signals func() map[string]uint64
	rest    prometheus.Gatherer // what others count
}

// Gather implements prometheus.TransactionalGatherer: what it returns is used again
// when done was called.
func (g *gatherer) Gather() (list []*dto.MetricFamily, done func(), err error) {
	out := outputs.Get().(*output)
	rest, err := g.rest.Gather()
	out.list = append(out.list, rest...)
	g.pool(out)
	slices.SortFunc(out.list, func(a, b *dto.MetricFamily) int { return cmp.Compare(*a.Name, *b.Name) })
	return out.list, out.done, err
}

// An output collects metrics. The samples are most of what a scrape allocates, and
// with them anew each time the garbage collector is a quarter of its cost.
type output struct {
	list    []*dto.MetricFamily
	samples []sample
	used    int // of samples
}

var outputs = sync.Pool{New: func() any { return new(output) }}

func (o *output) done() {
	clear(o.list)
	clear(o.samples[:o.used])
	o.list, o.used = o.list[:0], 0
	outputs.Put(o)
}

// take returns so many samples that are empty.
func (o *output) take(n int) []sample {
	if o.used+n > len(o.samples) {
		o.samples, o.used = make([]sample, max(n, 2*len(o.samples))), 0 // those before stay with the list
	}
	o.used += n
	return o.samples[o.used-n : o.used]
}

// Labels are those of one sample, in the order of their names.
type labels = []*dto.LabelPair

func label(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

// A sample is one number, with all that the format puts around it in one piece.
type sample struct {
	metric  dto.Metric
	counter dto.Counter
	gauge   dto.Gauge
	value   float64
}

// none is a number that is not known.
var none = math.NaN()

// add adds families that have the same labels. values returns, for the i-th
// labels, a number for each of the families, in their order.
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

// addWords adds a family with a label that is one of a few words.
func addWords[W ~string, N int | uint64](o *output, families []family, name string, words []W, counts map[W]N) {
	all := make([]labels, len(words))
	for i, word := range words {
		all[i] = labels{label(name, string(word))}
	}
	o.add(families, all, func(i int) []float64 { return []float64{float64(counts[words[i]])} })
}
