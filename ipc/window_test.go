package ipc

import (
	"fmt"
	"testing"
	"time"
)

// An observation is what window.observe is told.
type observation struct {
	n    int
	took time.Duration
}

// times repeats an observation of one message.
func times(n int, took time.Duration) []observation {
	list := make([]observation, n)
	for i := range list {
		list[i] = observation{1, took}
	}
	return list
}

// --window auto: about 1 ms of work ahead. It grows while messages are fast, from
// the second answer on. At a slow one, also one among many, it falls to 1,
// for the longer the slower that was.
func TestWindowObserve(t *testing.T) {
	const us, ms = time.Microsecond, time.Millisecond
	full := times(7, us) // 64 then
	for _, tt := range []struct {
		name  string
		fixed int
		seen  []observation
		want  string // the size at first, and after each
	}{
		{"fast", 0, times(9, us), "[1 1 2 4 8 16 32 64 64 64]"},
		{"too fast to be measured", 0, times(8, 0), "[1 1 2 4 8 16 32 64 64]"},
		{"20 us", 0, times(8, 20*us), "[1 1 2 4 8 16 32 50 50]"},
		{"100 us", 0, times(7, 100*us), "[1 1 2 4 8 10 10 10]"},
		{"400 us", 0, times(4, 400*us), "[1 1 2 2 2]"},
		{"500 us", 0, times(4, 500*us), "[1 1 2 2 2]"},
		{"more than half of it", 0, times(3, 600*us), "[1 1 1 1]"},
		{"1 ms", 0, times(3, ms), "[1 1 1 1]"},
		{"slow", 0, times(3, 20*ms), "[1 1 1 1]"},
		{"a pause of the CPU narrows it once", 0, append(append(full[:7:7], observation{1, 3 * ms}), times(3, us)...), "[1 1 2 4 8 16 32 64 1 2 4 8]"},
		{"and less among fast ones", 0, append(full[:7:7], observation{64, 3*ms + 64*us}, observation{64, 64 * us}), "[1 1 2 4 8 16 32 64 20 40]"},
		{"the first slow one holds for ten a millisecond", 0, append(full[:7:7], observation{1, 10 * ms}, observation{98, 98 * us}, observation{1, us}, observation{1, us}), "[1 1 2 4 8 16 32 64 1 1 1 2]"},
		{"a slow one holds for long", 0, append(full[:7:7], observation{1, 200 * ms}, observation{1999, 1999 * us}, observation{1, us}, observation{1, us}), "[1 1 2 4 8 16 32 64 1 1 2 4]"},
		{"slower, but not slow", 0, append(full[:7:7], observation{1, 100 * us}, observation{1, us}), "[1 1 2 4 8 16 32 64 10 20]"},
		{"a slow one among fast ones", 0, append(full[:7:7], observation{64, 30*ms + 64*us}, observation{299, 299 * us}, observation{2, 2 * us}), "[1 1 2 4 8 16 32 64 1 1 2]"},
		{"each of many counts, fast", 0, []observation{{100, 100 * us}, {100, 100 * us}, {100, 100 * us}}, "[1 1 2 4]"},
		{"each of many counts, slow", 0, append(full[:7:7], observation{64, 64 * ms}), "[1 1 2 4 8 16 32 64 1]"},
		{"fixed, fast", 3, times(4, us), "[3 3 3 3 3]"},
		{"fixed, slow", 3, times(2, time.Second), "[3 3 3]"},
		{"fixed at 1", 1, times(2, us), "[1 1 1]"},
	} {
		w := newWindow(tt.fixed)
		sizes := []int{w.size}
		for _, o := range tt.seen {
			w.observe(o.n, o.took)
			sizes = append(sizes, w.size)
		}
		if got := fmt.Sprint(sizes); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
