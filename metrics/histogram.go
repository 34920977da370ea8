package metrics

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/poolinit/poolinit/ipc"
)

// converted is an ipc.Histogram with its classic and its native buckets, so that a
// server takes those that it understands. (The const histograms of client_golang
// have one kind or the other.) A zero threshold above 0 tells an empty native
// histogram from none.
func converted(from *ipc.Histogram) *dto.Histogram {
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
	spans(h, from)
	return h
}

// spans writes the native buckets as the format has it: runs of neighbours, each
// by its distance from the one before, and each count as the difference to the
// one before.
func spans(out *dto.Histogram, h *ipc.Histogram) {
	next, before := 0, int64(0)
	for index, count := range h.Native {
		if n := len(out.PositiveSpan); n > 0 && index == next {
			*out.PositiveSpan[n-1].Length++
		} else {
			out.PositiveSpan = append(out.PositiveSpan, &dto.BucketSpan{Offset: new(int32(index - next)), Length: new(uint32(1))})
		}
		out.PositiveDelta = append(out.PositiveDelta, int64(count)-before)
		next, before = index+1, int64(count)
	}
}
