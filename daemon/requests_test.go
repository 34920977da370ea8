package daemon

import (
	"syscall"
	"testing"
	"time"
)

func TestDebounce(t *testing.T) {
	var d debounce
	began := time.Now()
	for i, test := range []struct {
		signal syscall.Signal
		at     time.Duration
		want   bool
	}{
		{syscall.SIGTERM, 0, false},
		{syscall.SIGTERM, time.Millisecond, true},
		{syscall.SIGTERM, 99 * time.Millisecond, true},
		{syscall.SIGTERM, 100 * time.Millisecond, false}, // from the first on
		{syscall.SIGINT, 101 * time.Millisecond, false},
		{syscall.SIGINT, 102 * time.Millisecond, true},
		{syscall.SIGTERM, 103 * time.Millisecond, false},
		{syscall.SIGTERM, 5 * time.Second, false},
	} {
		if got := d.repeats(test.signal, began.Add(test.at)); got != test.want {
			t.Errorf("%d: %v after %s: %v", i, test.signal, test.at, got)
		}
	}
}
