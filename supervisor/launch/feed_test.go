package launch

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/supervisor"
)

// A worker whose channel ends because it exits is not detached, also where a
// busy machine tells of the exit long after the channel ended.
func TestLivesOn(t *testing.T) {
	never := time.Hour
	for name, tt := range map[string]struct {
		exits, release time.Duration // when
		from, to       time.Duration // it is exiting then
		want           bool
		took           time.Duration
	}{
		"lives on":             {never, never, never, never, true, exitGrace},
		"exits soon":           {exitGrace / 2, never, never, never, false, exitGrace / 2},
		"exits slowly":         {5 * time.Second, never, 0, never, false, 5 * time.Second},
		"seemed to exit":       {never, never, 0, 4*exitGrace + 1, true, 5 * exitGrace},
		"is released meantime": {never, 3 * exitGrace / 2, 0, never, false, 3 * exitGrace / 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, exited, began := newFeed(nil), make(chan struct{}), time.Now()
				defer time.AfterFunc(tt.exits, func() { close(exited) }).Stop()
				defer time.AfterFunc(tt.release, f.cancel).Stop()
				got := f.livesOn(exited, func() bool { return time.Since(began) >= tt.from && time.Since(began) < tt.to })
				if took := time.Since(began); got != tt.want || took != tt.took {
					t.Errorf("%v after %v, want %v after %v", got, took, tt.want, tt.took)
				}
			})
		})
	}
}

// A worker that closes its channel and lives on says so by it; one that exits
// does not.
func TestDetachIsTold(t *testing.T) {
	for script, want := range map[string]bool{"exec 3>&-; exec sleep 1000": true, "exit 0": false} {
		c := launcher(t, "")
		c.Queue, c.Deliver = ipc.NewQueue(ipc.Config{Window: 1}, zerolog.Nop()), "frames"
		c.Args = []string{"sh", "-c", script}
		p := c.launch(t)
		p.Feed(true, time.Time{})
		select {
		case ask := <-p.Events().Asks:
			if !want || ask != supervisor.AskDetach {
				t.Errorf("%s: asks for %s", script, ask)
			}
		case <-p.Events().Gone:
			if want {
				t.Errorf("%s: has ended", script)
			}
		case <-time.After(patience):
			t.Errorf("%s: nothing", script)
		}
		_ = p.Signal(supervisor.Group, syscall.SIGKILL) // gone: fine
		wait(t, "exit", p.Events().Exited)
		p.Release("the test is over", false)
		c.Queue.Close()
	}
}

// Each ask of a channel has its word.
func TestTranslate(t *testing.T) {
	for in, want := range map[ipc.Ask]supervisor.Ask{
		ipc.AskRecycle: supervisor.AskRecycle,
		ipc.AskTimeout: supervisor.AskTimeout,
		ipc.AskDetach:  supervisor.AskDetach,
		ipc.AskBroken:  supervisor.AskBroken,
	} {
		if got := translate(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
