package awake

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A clock is the bubble's, and goes on while the program sleeps.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// inBubble runs f in a bubble, with a Watch that counts the sleeps.
func inBubble(t *testing.T, f func(w *Watch, c *clock, slept *atomic.Int64)) {
	synctest.Test(t, func(t *testing.T) {
		c, slept := new(clock), new(atomic.Int64)
		f(New(c.now, func(time.Duration) { slept.Add(1) }), c, slept)
	})
}

// A deadline is granted once more for each sleep, wherever in its time that was.
func TestDeadlineIsGrantedAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		at, sleep time.Duration // after its start; 0: never
		fires     time.Duration
	}{
		"no sleep":              {0, 0, 10 * time.Second},
		"at the beginning":      {time.Millisecond, time.Minute, 20 * time.Second},
		"in the middle":         {5 * time.Second, 6 * time.Second, 20 * time.Second},
		"just before it is due": {10*time.Second - time.Millisecond, 2 * time.Second, 20 * time.Second},
		"a short one":           {5 * time.Second, 900 * time.Millisecond, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *Watch, c *clock, slept *atomic.Int64) {
				began := time.Now()
				due := w.After(10 * time.Second)
				if tt.sleep > 0 {
					time.Sleep(tt.at)
					c.ahead.Add(int64(tt.sleep))
				}
				<-due
				if took := time.Since(began); took != tt.fires {
					t.Errorf("fired after %s, want %s", took, tt.fires)
				}
				if want := tt.fires > 10*time.Second; (slept.Load() == 1) != want {
					t.Errorf("slept %d times", slept.Load())
				}
			})
		})
	}
}

// Two sleeps grant it twice, and a deadline that is set after a sleep not at all.
func TestEachSleepCounts(t *testing.T) {
	inBubble(t, func(w *Watch, c *clock, slept *atomic.Int64) {
		began := time.Now()
		due := w.After(10 * time.Second)
		time.Sleep(9 * time.Second)
		c.ahead.Add(int64(time.Minute))
		time.Sleep(2 * time.Second)
		late := w.After(time.Second)
		<-late
		if took := time.Since(began); took != 12*time.Second {
			t.Errorf("the late one fired after %s", took)
		}
		c.ahead.Add(int64(time.Minute))
		<-due
		if took := time.Since(began); took != 30*time.Second || slept.Load() != 2 {
			t.Errorf("fired after %s, slept %d times", took, slept.Load())
		}
	})
}

// Without a deadline ahead the Watch rests, and what goes by then is no sleep.
func TestWatchRests(t *testing.T) {
	inBubble(t, func(w *Watch, c *clock, slept *atomic.Int64) {
		<-w.After(10 * time.Second)
		time.Sleep(2 * tick)
		w.mu.Lock()
		if w.beat != nil {
			t.Error("it still looks at the clock")
		}
		w.mu.Unlock()
		c.ahead.Add(int64(time.Hour))
		<-w.After(10 * time.Second)
		if slept.Load() != 0 {
			t.Errorf("slept %d times", slept.Load())
		}
	})
}

func TestTimerStops(t *testing.T) {
	inBubble(t, func(w *Watch, _ *clock, _ *atomic.Int64) {
		fired := make(chan time.Duration, 9)
		began := time.Now()
		timer := w.AfterFunc(time.Second, func() { fired <- time.Since(began) })
		time.Sleep(500 * time.Millisecond)
		timer.Reset(2 * time.Second)
		time.Sleep(3 * time.Second)
		timer.Reset(time.Second)
		timer.Stop()
		time.Sleep(time.Minute)
		if n, first := len(fired), <-fired; n != 1 || first != 2500*time.Millisecond {
			t.Errorf("fired %d times, after %v", n, first)
		}
	})
}

// A nil Watch has plain timers.
func TestNilWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w *Watch
		w.Cover(time.Second)
		<-w.After(time.Second)
		if w.Naps() != 0 {
			t.Error("a nil Watch slept")
		}
	})
}
