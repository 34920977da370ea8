package ipc

import (
	"slices"
	"testing"

	"github.com/rs/zerolog"
)

// Each process has a share of its own, so that workers that began together are
// not replaced together.
func TestRecyclingIsSpread(t *testing.T) {
	const draws = 200
	q := NewQueue(Config{MaxMessages: 1000}, zerolog.Nop())
	shares := map[string][]int{}
	for range draws {
		shares["around"] = append(shares["around"], around(1000))
		c, file, err := q.NewChannel(0)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		shares["channel"] = append(shares["channel"], c.due)
		c.Close("the test is over")
	}
	for name, got := range shares {
		slices.Sort(got)
		lowest, highest, different := got[0], got[draws-1], len(slices.Compact(slices.Clone(got)))
		if lowest < 900 || highest > 1100 || lowest > 950 || highest < 1050 || different < draws/4 {
			t.Errorf("%s: from %d to %d, %d different ones of %d", name, lowest, highest, different, draws)
		}
	}
	for n, want := range map[int]int{0: 0, 1: 1, 2: 2} { // off stays off, and few stay what they are
		if got := around(n); got != want {
			t.Errorf("around(%d) = %d, want %d", n, got, want)
		}
	}
}
