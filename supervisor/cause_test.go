package supervisor

import (
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/reaper"
)

// A message is charged with its worker's end, unless the pool ended that.
func TestEndedByPool(t *testing.T) {
	const stop = syscall.SIGQUIT
	for _, test := range []struct {
		cause Cause
		exit  reaper.Exit
		want  bool
	}{
		{Stop, reaper.Exit{}, true},
		{Stop, reaper.Exit{Signal: stop}, true},
		{Stop, reaper.Exit{Code: 128 + int(stop)}, true},
		{Reloaded, reaper.Exit{Signal: syscall.SIGKILL}, true},
		{Lifetime, reaper.Exit{Signal: stop}, true},
		{Memory, reaper.Exit{Signal: stop}, true},
		{Messages, reaper.Exit{Signal: stop}, true},
		{Reloaded, reaper.Exit{Signal: syscall.SIGSEGV}, false},
		{Stop, reaper.Exit{Code: 255}, false},
		{Timeout, reaper.Exit{Signal: syscall.SIGKILL}, false},
		{Hung, reaper.Exit{Signal: syscall.SIGKILL}, false},
		{Crash, reaper.Exit{Signal: syscall.SIGKILL}, false},
		{OOM, reaper.Exit{Signal: syscall.SIGKILL}, false},
		{Done, reaper.Exit{}, false},
	} {
		if got := (ending{cause: test.cause, exit: test.exit}).byPool(stop); got != test.want {
			t.Errorf("%s, %+v: %v", test.cause, test.exit, got)
		}
	}
}
