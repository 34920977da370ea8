package metrics

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/poolinit/poolinit/ipc"
)

// nativeOf decodes native buckets: the counts by index, as a server does it.
func nativeOf(h *dto.Histogram) map[int]uint64 {
	buckets := map[int]uint64{}
	index, count, k := 0, int64(0), 0
	for _, span := range h.PositiveSpan {
		index += int(span.GetOffset())
		for range span.GetLength() {
			count += h.PositiveDelta[k]
			buckets[index] = uint64(count)
			index++
			k++
		}
	}
	if k != len(h.PositiveDelta) {
		return nil
	}
	return buckets
}

// FuzzSpans has durations turned into a histogram and back.
func FuzzSpans(f *testing.F) {
	for _, durations := range [][]time.Duration{
		{}, {0}, {time.Nanosecond}, {time.Second}, {time.Hour, time.Hour}, {48 * time.Hour}, {1, 1 << 40}, {time.Second, time.Second + 1},
		{time.Microsecond, 2 * time.Microsecond, 4 * time.Microsecond, time.Minute, 90 * time.Second},
	} {
		var data []byte
		for _, d := range durations {
			data = binary.BigEndian.AppendUint64(data, uint64(d))
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var from ipc.Histogram
		for ; len(data) >= 8; data = data[8:] {
			from.Observe(time.Duration(binary.BigEndian.Uint64(data)), 1+int(data[7]&3))
		}
		h, want := toPrometheus(&from), map[int]uint64{}
		from.Native(func(index int, count uint64) bool {
			want[index] = count
			return true
		})
		if got := nativeOf(h); !maps.Equal(got, want) {
			t.Errorf("%v became %v", want, got)
		}
		if h.GetZeroThreshold() <= 0 || h.ZeroCount == nil {
			t.Error("a server would not take it for a native histogram")
		}
		agree(t, h)
	})
}

// agree compares what both kinds of buckets tell.
func agree(t *testing.T, h *dto.Histogram) {
	t.Helper()
	all := uint64(0)
	for _, n := range nativeOf(h) {
		all += n
	}
	last := h.Bucket[len(h.Bucket)-1]
	if all != h.GetSampleCount() || last.GetCumulativeCount() != all || !math.IsInf(last.GetUpperBound(), 1) {
		t.Errorf("%d in native buckets, %d in classic ones, count %d", all, last.GetCumulativeCount(), h.GetSampleCount())
	}
	before := &dto.Bucket{UpperBound: new(-1.0), CumulativeCount: new(uint64(0))}
	for _, b := range h.Bucket {
		if b.GetUpperBound() <= before.GetUpperBound() || b.GetCumulativeCount() < before.GetCumulativeCount() {
			t.Errorf("bucket %v comes after %v", b, before)
		}
		before = b
		// What lies below for sure, and what may: the limits of both kinds need not meet.
		least, most := uint64(0), uint64(0)
		for index, n := range nativeOf(h) {
			low, high := math.Exp2(float64(index-1)/4), math.Exp2(float64(index)/4)
			if high <= b.GetUpperBound()*(1-1e-12) && index < 48 { // the last one holds all that is longer
				least += n
			}
			if low < b.GetUpperBound() || index == -91 { // the first one holds all that is shorter
				most += n
			}
		}
		if n := b.GetCumulativeCount(); n < least || n > most {
			t.Errorf("%d durations up to %v s; by native buckets there are %d to %d", n, b.GetUpperBound(), least, most)
		}
	}
}

// native is how a server asks that takes native histograms.
const native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

// openMetrics is how others ask.
const openMetrics = "application/openmetrics-text; version=1.0.0"

// decoded scrapes, and returns the families by name.
func decoded(t *testing.T, s *Server, accept string) map[string]*dto.MetricFamily {
	t.Helper()
	w := get(s, "/metrics", "Accept: "+accept)
	if kind, _, _ := strings.Cut(accept, ";"); !strings.HasPrefix(w.Header().Get("Content-Type"), kind) {
		t.Errorf("Content-Type %q", w.Header().Get("Content-Type"))
	}
	families := map[string]*dto.MetricFamily{}
	decoder := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Header()))
	for {
		f := new(dto.MetricFamily)
		if err := decoder.Decode(f); err != nil {
			if err.Error() != "EOF" {
				t.Fatal(err)
			}
			return families
		}
		families[f.GetName()] = f
	}
}

// The text and the binary format say the same, but that only the latter has native
// histograms.
func TestFormats(t *testing.T) {
	f := eventful()
	f.queue.Waiting = busyHistogram()
	s := f.server()
	text, binary := decoded(t, s, "text/plain"), decoded(t, s, native)
	for name, want := range text {
		got := binary[name]
		if !strings.HasPrefix(name, "poolinit_") || strings.Contains(name, "uptime") {
			continue
		}
		if got == nil || got.GetType() != want.GetType() || got.GetHelp() != want.GetHelp() || len(got.Metric) != len(want.Metric) {
			t.Errorf("%s: %v, %v", name, want, got)
			continue
		}
		for i, m := range got.Metric {
			w := want.Metric[i]
			if m.GetCounter().GetValue() != w.GetCounter().GetValue() || m.GetGauge().GetValue() != w.GetGauge().GetValue() ||
				model.LabelsToSignature(labelMap(m)) != model.LabelsToSignature(labelMap(w)) {
				t.Errorf("%s: %v, %v", name, w, m)
			}
			if h := m.GetHistogram(); h != nil {
				if !slices.Equal(finite(h), finite(w.Histogram)) || h.GetSampleSum() != w.Histogram.GetSampleSum() {
					t.Errorf("%s: %v, %v", name, w, m)
				}
				if h.GetZeroThreshold() <= 0 {
					t.Errorf("%s has no native buckets", name)
				}
			}
		}
	}
	if len(text) != len(binary) {
		t.Errorf("%d families as text, %d in the binary format", len(text), len(binary))
	}
	agree(t, binary["poolinit_message_wait_seconds"].Metric[0].Histogram)
}

// finite returns limits and counts of the buckets that have a limit.
func finite(h *dto.Histogram) (list [][2]float64) {
	for _, b := range h.Bucket {
		if !math.IsInf(b.GetUpperBound(), 1) {
			list = append(list, [2]float64{b.GetUpperBound(), float64(b.GetCumulativeCount())})
		}
	}
	return list
}

func labelMap(m *dto.Metric) map[string]string {
	all := map[string]string{}
	for _, l := range m.Label {
		all[l.GetName()] = l.GetValue()
	}
	return all
}

func busyHistogram() (h ipc.Histogram) {
	for d := 100 * time.Nanosecond; d < 3*time.Hour; d += d/5 + 1 {
		h.Observe(d, int(d%7)+1)
	}
	return h
}

func TestOpenMetrics(t *testing.T) {
	w := get(eventful().server(), "/metrics", "Accept: "+openMetrics)
	text := w.Body.String()
	if kind := w.Header().Get("Content-Type"); !strings.HasPrefix(kind, openMetrics) {
		t.Errorf("Content-Type %q", kind)
	}
	for _, want := range []string{
		"# TYPE poolinit_worker_exits counter\n", "poolinit_worker_exits_total{reason=\"oom\"} 102.0\n",
		"# TYPE poolinit_message_wait_seconds histogram\n", "poolinit_message_wait_seconds_bucket{le=\"1e-05\"} 8\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q", want)
		}
	}
	if !strings.HasSuffix(text, "\n# EOF\n") {
		t.Errorf("it ends with %q", text[len(text)-20:])
	}
}
