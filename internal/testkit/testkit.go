// Package testkit has what the tests of several packages need.
//
// A test waits for a condition with Eventually, or for a channel with Wait: both
// have a deadline, and say what there was instead. Output collects what a
// program or a logger writes, and waits for words of it. Children are the
// programs that the test binary plays itself, so that no test needs a script.
//
// The packages below it are smaller still: strict skips what a machine lacks,
// but not in CI, and race tells whether the race detector is in the test.
package testkit

import (
	"testing"
	"time"
)

// Patience is how long a test waits for what must happen. Only a test that fails
// waits that long.
const Patience = 30 * time.Second

// Eventually waits until the condition holds. If that takes longer than Patience
// the test fails, and its message has the last thing that the condition got. It
// is for what announces no change: it looks again and again, at first after
// microseconds, later every 10 ms.
func Eventually(t testing.TB, what string, condition func() (got any, ok bool)) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		got, ok := condition()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v; instead there was: %v", what, Patience, got)
		}
		time.Sleep(pause)
	}
}

// Wait waits until the channel is closed, or has a value. If that takes longer
// than Patience the test fails.
func Wait(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(Patience):
		t.Fatalf("%s: not within %v", what, Patience)
	}
}

// IsDone reports whether the channel is closed, without waiting for it.
func IsDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}
