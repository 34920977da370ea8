package daemon

import (
	"errors"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/reaper/signals"
)

// A start that hangs ends when a stop is asked for. One that does not is not held up
// by the signal, which the pool acts on later.
func TestStartThatHangs(t *testing.T) {
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the signal waits", func() (any, bool) { return nil, signals.Early().Waits(signals.Stop) })
	defer func() { // takes the signal out of the mailbox
		done := make(chan struct{})
		signals.Early().Each(done, func(syscall.Signal) { close(done) })
	}()
	why := errors.New("why")
	if d, code, err := orStop(func() (*Daemon, int, error) { return nil, 7, why }, zerolog.Nop()); d != nil || code != 7 || err != why {
		t.Error(d, code, err)
	}
	var log logBook
	hangs := make(chan struct{})
	defer close(hangs)
	if d, code, err := orStop(func() (*Daemon, int, error) { <-hangs; return nil, 0, nil }, zerolog.New(&log)); d != nil || code != 137 || err != nil {
		t.Error(d, code, err)
	}
	if !signals.Early().Waits(signals.Stop) {
		t.Error("the signal was taken")
	}
}
