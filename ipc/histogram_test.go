package ipc

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// Each duration must be in the bucket whose limits hold it, classic and native,
// also at the limits themselves.
func TestHistogramBuckets(t *testing.T) {
	var all []time.Duration
	for d := time.Duration(1); d < 3*time.Hour; d += d/7 + 1 {
		all = append(all, d)
	}
	for _, b := range Bounds {
		at := time.Duration(math.Round(b * 1e9))
		all = append(all, at-1, at, at+1)
	}
	for exp := minExp; exp < maxExp; exp++ {
		all = append(all, time.Duration(math.Exp2(float64(exp))*1e9))
	}
	for _, d := range append(all, 0, -time.Second) {
		var h Histogram
		h.Observe(d, 3)
		seconds := max(d, 0).Seconds()
		for i, n := range h.Classic {
			low, high := math.Inf(-1), math.Inf(1)
			if i > 0 {
				low = Bounds[i-1]
			}
			if i < len(Bounds) {
				high = Bounds[i]
			}
			if in := seconds > low && seconds <= high; in != (n == 3) {
				t.Errorf("%v: classic bucket (%v, %v] has %d", d, low, high, n)
			}
		}
		found := 0
		for index, n := range h.Native {
			found += int(n)
			low, high := math.Exp2(float64(index-1)/subs), math.Exp2(float64(index)/subs)
			first, last := index == minExp*subs+1, index == maxExp*subs
			if seconds*(1+1e-12) <= low && !first || seconds*(1-1e-12) > high && !last {
				t.Errorf("%v: native bucket %d is (%v, %v]", d, index, low, high)
			}
		}
		if found != 3 || h.Count != 3 || math.Abs(h.Seconds-3*seconds) > 1e-9*seconds {
			t.Errorf("%v: %d in native buckets, count %d, sum %v", d, found, h.Count, h.Seconds)
		}
	}
}

func BenchmarkHistogram(b *testing.B) {
	var h Histogram
	for i := 0; b.Loop(); i++ {
		h.Observe(time.Duration(i&0xfffff), 1)
	}
}

// A run falls into the buckets that its durations would fall into one by one.
func TestObserveRun(t *testing.T) {
	for range 2000 {
		first := time.Duration(rand.Int64N(1 << rand.IntN(40)))
		step := time.Duration(rand.Int64N(1<<rand.IntN(30))) * time.Duration(1-2*rand.IntN(2))
		n := 1 + rand.IntN(70)
		var run, single Histogram
		run.ObserveRun(first, first+step*time.Duration(n-1), n)
		for i := range n {
			single.Observe(first+step*time.Duration(i), 1)
		}
		if run.native != single.native || run.Classic != single.Classic || run.Count != single.Count {
			t.Fatalf("%d from %v, %v apart: %+v, one by one %+v", n, first, step, run, single)
		}
		if diff := math.Abs(run.Seconds - single.Seconds); first+step*time.Duration(n-1) > 0 && diff > 1e-9*max(1, single.Seconds) {
			t.Fatalf("%d from %v, %v apart: %v s, one by one %v s", n, first, step, run.Seconds, single.Seconds)
		}
	}
}
