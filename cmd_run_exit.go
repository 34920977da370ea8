package main

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor/launch"
)

// eventVariable tells COMMAND that it is no worker this time, but is run for
// what has happened to the pool.
const eventVariable = "POOLINIT_EVENT"

// leastAtExit is what the command at the exit gets even when --stop-timeout is
// used up, or somebody asks a second time to stop.
const leastAtExit = time.Second

// lastAtExit is how long its end is waited for after SIGKILL. What is left then
// hangs in the kernel.
const lastAtExit = time.Second

// runAtExit runs COMMAND once more, as --run-at-exit has it, for what is to be
// done once for all workers when none is left. It returns when that has ended,
// or is killed because time is up. How it ended is for the log alone.
func runAtExit(hurried context.Context, l *launch.Launcher, workers int, until time.Time, log zerolog.Logger) {
	least := time.Now().Add(leastAtExit)
	p, err := startAtExit(l, workers)
	if err != nil {
		log.Warn().Err(err).Msg("the command at exit cannot be started")
		return
	}
	log.Debug().Int("pid", p.PID()).Msg("running the command at exit")
	select {
	case <-p.Exited():
	case <-hurried.Done():
	case <-time.After(time.Until(until)):
	}
	if within(time.Until(least), p.Exited()) {
		_ = p.SignalGroup(syscall.SIGTERM) // what it has left: nobody else would
	} else {
		log.Warn().Int("pid", p.PID()).Msg("the command at exit does not end in time: killing it")
		_ = p.SignalGroup(syscall.SIGKILL)
		if !within(lastAtExit, p.Exited()) {
			return
		}
	}
	if exit := p.Exit(); exit.Status() != 0 {
		log.Warn().Int("code", exit.Status()).Msg("the command at exit failed")
	}
}

// startAtExit starts it as a worker is started, but for what makes a worker of
// it. Its lines are marked with the number after the last worker's.
func startAtExit(l *launch.Launcher, workers int) (*reaper.Process, error) {
	pipes, err := l.Relay.Open(workers)
	if err != nil {
		return nil, err
	}
	defer pipes.CloseChild()
	p, err := l.Reaper.Start(&reaper.Spec{
		Args:        l.Args,
		Env:         append(l.Env[:len(l.Env):len(l.Env)], eventVariable+"=shutdown"),
		Files:       []uintptr{os.Stdin.Fd(), pipes.Stdout.Fd(), pipes.Stderr.Fd()},
		NewGroup:    true,
		DeathSignal: syscall.SIGKILL,
		Credential:  l.Credential,
	})
	if err == nil {
		pipes.SetPID(p.PID())
	}
	return p, err
}

// within waits for a channel to be closed, but no longer than the limit.
func within(limit time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return isClosed(done) // both were ready
	}
}
