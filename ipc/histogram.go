package ipc

import (
	"math"
	"time"
)

// Schema is the resolution of a Histogram, as Prometheus' native histograms
// count it: 2^Schema buckets for each power of two of a second, so that a
// quantile is known to 9 %.
const Schema = 2

// The range of a Histogram: what is shorter falls into its first bucket, what
// is longer into its last.
const (
	minExp  = -23 // 2^-23 s is 119 ns
	maxExp  = 12  // 2^12 s is 68 minutes
	subs    = 1 << Schema
	buckets = (maxExp - minExp) * subs
)

// Bounds are the upper limits in seconds of a Histogram's classic buckets.
// They must not be changed.
var Bounds = [...]float64{
	.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300,
}

// A Histogram counts durations, in the classic and in the native buckets of
// Prometheus at once. To count one costs a few nanoseconds and allocates
// nothing. It is not safe for concurrent use. A copy is a snapshot.
type Histogram struct {
	Count   uint64
	Seconds float64                 // the sum
	Classic [len(Bounds) + 1]uint64 // by the first of Bounds that is not below; not cumulative
	native  [buckets]uint64
}

// Observe counts a duration n times.
func (h *Histogram) Observe(d time.Duration, n int) { h.ObserveRun(d, d, n) }

// ObserveRun counts n durations at equal distances, from first to last. If all of
// them fall into one bucket it costs no more than one of them.
func (h *Histogram) ObserveRun(first, last time.Duration, n int) {
	a, b := seconds(first), seconds(last)
	i := bucketOf(a)
	classic := classicOf(i, a)
	if n > 1 && (bucketOf(b) != i || classicOf(i, b) != classic) {
		half := n / 2
		step := (last - first) / time.Duration(n-1)
		h.ObserveRun(first, first+step*time.Duration(half-1), half)
		h.ObserveRun(first+step*time.Duration(half), last, n-half)
		return
	}
	h.Count += uint64(n)
	h.Seconds += (a + b) / 2 * float64(n)
	h.native[i] += uint64(n)
	h.Classic[classic] += uint64(n)
}

func seconds(d time.Duration) float64 {
	return float64(max(d, 0)) / 1e9 // a product with 1e-9 would miss round limits
}

// bucketOf returns the native bucket, counted from minExp. Its limits are
// (2^((i-1)/subs), 2^(i/subs)]. seconds is not negative.
func bucketOf(seconds float64) int {
	bits := math.Float64bits(seconds)
	exp, fraction := int(bits>>52)-1023, bits&(1<<52-1) // seconds = 2^exp * (1 + fraction/2^52); of 0, exp is far below
	sub := 0
	for _, limit := range fractions {
		sub += int((limit - fraction) >> 63) // 1 if above, without a branch
	}
	return max(0, min((exp-minExp)*subs+sub-1, buckets-1))
}

// fractions are the lower limits of the buckets of one power of two, 2^(i/subs),
// as the fraction bits of a float64. What is at the first one belongs to the power
// below.
var fractions = func() (f [subs]uint64) {
	for i := range f {
		f[i] = math.Float64bits(math.Exp2(float64(i)/subs)) & (1<<52 - 1)
	}
	return f
}()

// classicOf returns the classic bucket of a duration in a native bucket. The
// table leaves at most a few limits to compare with.
func classicOf(bucket int, seconds float64) int {
	i := int(classicFrom[bucket])
	for i < len(Bounds) && seconds > Bounds[i] {
		i++
	}
	return i
}

// classicFrom is the first classic bucket that shares something with a native
// one.
var classicFrom = func() (from [buckets]uint8) {
	for b := 1; b < buckets; b++ {
		low := math.Exp2(float64(minExp) + float64(b)/subs)
		i := 0
		for i < len(Bounds) && Bounds[i] < low {
			i++
		}
		from[b] = uint8(i)
	}
	return from
}()

// Native yields the native buckets that are not empty, in order: the index as
// Prometheus counts it (the upper limit is 2^(index/2^Schema) seconds), and the
// count.
func (h *Histogram) Native(yield func(index int, count uint64) bool) {
	for i, n := range h.native {
		if n > 0 && !yield(minExp*subs+i+1, n) {
			return
		}
	}
}
