package daemon

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/reaper/awake"
	"github.com/poolinit/poolinit/supervisor/launch"
)

// EventVariable tells the command that it is not a worker this time, but runs
// because of what has happened to the pool.
const EventVariable = "POOLINIT_EVENT"

// leastAtExit is how long the command at exit may run even if --stop-timeout has
// elapsed, or a second stop was asked for.
const leastAtExit = time.Second

// lastAtExit is how long to wait for its end after SIGKILL. A process that is left
// then hangs in the kernel.
const lastAtExit = time.Second

// An atExit is the command that runs once when no worker is left, for what has to
// be done once for all workers.
type atExit struct {
	command launch.Config
	places  func() int // how many there ever were in the pool
	awake   *awake.Watch
	log     zerolog.Logger
}

// run returns when the command has ended, or was killed because it did not end in
// time or a second stop was asked for. How it ended is only logged.
func (c *atExit) run(hurried context.Context, until time.Time) {
	least := time.Now().Add(leastAtExit)
	p, err := c.start()
	if err != nil {
		c.log.Warn().Err(err).Msg("cannot start the exit command")
		return
	}
	c.log.Debug().Int("pid", p.PID()).Msg("running the exit command")
	select {
	case <-p.Exited():
	case <-hurried.Done():
	case <-c.awake.After(time.Until(until)):
	}
	if within(time.Until(least), p.Exited()) {
		_ = p.SignalGroup(syscall.SIGTERM) // the processes that it has left
	} else {
		c.log.Warn().Int("pid", p.PID()).Msg("exit command did not end in time, killing it")
		_ = p.SignalGroup(syscall.SIGKILL)
		if !within(lastAtExit, p.Exited()) {
			return
		}
	}
	if exit := p.Exit(); exit.Status() != 0 {
		c.log.Warn().Int("code", exit.Status()).Msg("exit command failed")
	}
}

// start starts the command as a worker is started, but without what makes a worker
// of it. Its lines have a number that no worker of the pool has ever had.
func (c *atExit) start() (*reaper.Process, error) {
	l := c.command
	pipes, err := l.Relay.Open(c.places())
	if err != nil {
		return nil, err
	}
	defer pipes.CloseChild()
	p, err := l.Reaper.Start(&reaper.Spec{
		Args:        l.Args,
		Env:         append(l.Env[:len(l.Env):len(l.Env)], EventVariable+"=shutdown"),
		Dir:         l.Dir,
		Files:       []uintptr{os.Stdin.Fd(), pipes.Stdout.Fd(), pipes.Stderr.Fd()},
		NewGroup:    true,
		DeathSignal: syscall.SIGKILL,
		Credential:  l.Credential,
	})
	if err == nil {
		if l.Started != nil {
			l.Started(p)
		}
		pipes.SetPID(p.PID())
	}
	return p, err
}

// within waits for a channel to be closed, up to the limit, and reports whether it
// was.
func within(limit time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
	}
	select { // both may have been ready
	case <-done:
		return true
	default:
		return false
	}
}
