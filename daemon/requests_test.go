package daemon

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/reaper/signals"
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

// However often a stop is asked for, it is one stop: a preStop hook and the kubelet
// both ask. Only the second SIGINT kills.
func TestOneStop(t *testing.T) {
	for asked, kills := range map[string]bool{
		"TERM TERM QUIT RTMIN+3 TERM": false,
		"INT":                         false,
		"INT TERM QUIT":               false,
		"TERM INT":                    false,
		"INT INT":                     true,
		"TERM INT TERM INT":           true,
	} {
		inWorld(t, func(c *setup) { c.Pool.StopTimeout = time.Minute }, func(w *world) {
			w.obey = deaf
			w.run()
			for _, name := range strings.Fields(asked) {
				sig, err := signals.Parse(name)
				if err != nil {
					t.Fatal(err)
				}
				w.d.pool.signal(sig)
				w.pass(time.Second)
			}
			w.want(asked+": killed at once", w.logged("killing the workers now"), kills)
			w.want(asked+": says that it stops already", w.logged("already stopping"), strings.Contains(asked, " ") && asked != "INT INT")
			w.stopNow()
			w.want("code", w.wait(time.Millisecond).Code, 137)
		})
	}
}

// --reload-on, --stop-on and --forward.
func TestSignalsMean(t *testing.T) {
	inWorld(t, func(c *setup) {
		c.Pool.Workers = 1
		c.Signals = Signals{Stop: signals.SetOf(syscall.SIGWINCH), Reload: signals.SetOf(syscall.SIGUSR2),
			Forward: map[syscall.Signal]syscall.Signal{syscall.SIGHUP: syscall.SIGUSR1, syscall.SIGALRM: 0}}
	}, func(w *world) {
		w.obey = deaf
		w.run()
		for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGALRM, syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGCHLD, syscall.SIGTSTP} {
			w.d.pool.signal(sig)
			w.pass(time.Millisecond)
		}
		w.want("forwarded", w.last(0).got(), fmt.Sprint([]syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR1, syscall.SIGTERM}))
		w.d.pool.signal(syscall.SIGWINCH)
		w.pass(time.Millisecond)
		w.want("stopping", w.logged(`"why":"SIGWINCH"`), true)
		w.stopNow()
		w.wait(time.Millisecond)
	})
}
