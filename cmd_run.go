package main

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/reaper/cgroup"
	"github.com/poolinit/poolinit/reaper/signals"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/launch"
	"github.com/poolinit/poolinit/supervisor/output"
)

// lastLines is how long the end waits for output that somebody is slow to read.
const lastLines = time.Second

// leastGrace is what processes that are left over get between TERM and KILL even
// when --stop-timeout is used up.
const leastGrace = 100 * time.Millisecond

func cmdRun(args []string) int {
	o, warnings, err := parseRun(args, os.Environ())
	switch {
	case err != nil:
		return usageError(os.Stderr, "%v", err)
	case o.help:
		return printHelp()
	}
	stderr := output.NewDest(os.Stderr)
	log, sink := newLogger(o, stderr)
	for _, w := range warnings {
		log.Warn().Msg(w)
	}
	code := supervise(o, log, output.NewRelay(o.output, os.Stdout, stderr))
	_ = sink.Close(lastLines) // a failure could be logged only there
	return code
}

// supervise runs the pool and ends what it leaves.
func supervise(o *options, log zerolog.Logger, relay *output.Relay) int {
	oom := cgroup.NewOOM()
	cfg := o.config(oom, log) // first: reserveThreads lowers GOMAXPROCS
	reserveThreads()
	reaper.SealFiles()
	onOrphan := func(_ int, exit reaper.Exit) { oom.Orphan(exit.Signal) }
	reap, err := reaper.New(onOrphan)
	if err != nil {
		log.Warn().Err(err).Msg("orphans will not be reaped")
		reap = reaper.NewPlain(onOrphan)
	}
	defer reap.Close()
	starter := &launch.Launcher{
		Reaper: reap, Args: o.command, Env: o.environ(), Credential: o.user.sys,
		Relay: relay, Watchdog: o.watchdog, Log: log, Shares: o.share,
	}
	if err := starter.Check(); err != nil { // before somebody is told that his message is taken, or that a port is
		return endBefore(log, cfg.Workers, o.command, err)
	}
	closeShares, err := openShares(o.share)
	if err != nil {
		return cannotStart(err)
	}
	defer closeShares()
	look, err := openLookout(o, log)
	if err != nil {
		return cannotStart(err)
	}
	defer look.close()
	mail, err := openMessages(o, relay, log)
	if err != nil {
		return cannotStart(err)
	}
	if cfg.Workers == 1 && !o.runsPerMessage() {
		starter.Terminal = reaper.OpenTerminal()
		cfg.Interactive = starter.Terminal != nil
		defer starter.Terminal.Close()
	}
	logStart(log, cfg.Workers, o.command)
	for _, s := range o.share {
		log.Info().Str("socket", s.URL.Name).Str("name", s.Name).Msg("sharing a listening socket with the workers")
	}
	if o.takesMessages() {
		starter.Queue, starter.Deliver, cfg.Drain = mail.queue, string(o.deliver), mail.drain
		cfg.Waiting = func() bool { n, _, _ := mail.queue.Depth(); return n > 0 }
		look.view.Queue, look.view.Sources, look.view.Serving = mail.queue, mail.sources, mail.taking.Load
		mail.serve()
	}
	cfg.OnReload = look.reloadEnded()
	pool := newStoppable(supervisor.New(cfg, starter.Launch, log))
	starter.CommandKilled = pool.CommandKilled
	look.view.Workers, look.view.Reaper = cfg.Workers, reap
	look.serve(pool)
	var began time.Time // of the stop
	result := runWithSignals(pool, func(result supervisor.Result) {
		began = time.Now().Add(-result.Took)
		mail.close(pool.hurried, began.Add(o.stopTimeout))
		if o.runAtExit {
			runAtExit(pool.hurried, starter, cfg.Workers, began.Add(o.stopTimeout), log)
		}
		reap.EndRest(pool.hurried, max(o.stopTimeout-time.Since(began), leastGrace))
	})
	_ = relay.Close(lastLines) // what keeps a stream open is nobody's worker any more
	if lost := relay.Lost(); lost > 0 {
		log.Warn().Uint64("lost", lost).Msg("workers' lines lost: writing them failed")
	}
	logEnd(log, result.Code, result.Killed, mail.totals(), began)
	return result.Code
}

// A stoppable is a pool together with what comes after it: the second request to
// stop, and any that comes after the pool's own end, hurries that as well.
type stoppable struct {
	*supervisor.Pool
	hurried context.Context
	hurry   context.CancelFunc
	stops   atomic.Int32 // requests; the pool's own end counts as one
	echo    echo
}

func newStoppable(pool *supervisor.Pool) *stoppable {
	s := &stoppable{Pool: pool}
	s.hurried, s.hurry = context.WithCancel(context.Background())
	return s
}

// Stop asks the pool to stop; why is for the log.
func (s *stoppable) Stop(why string) {
	s.Pool.Stop(why)
	if s.stops.Add(1) > 1 {
		s.hurry()
	}
}

// runWithSignals runs the pool, and then end, while signals act on both.
func runWithSignals(pool *stoppable, end func(supervisor.Result)) supervisor.Result {
	var listeners sync.WaitGroup
	done := make(chan struct{})
	mailbox := signals.Early()
	listeners.Go(func() { mailbox.Each(done, func(sig syscall.Signal) { dispatchSignal(pool, sig) }) })
	listeners.Go(mailbox.CatchRest)
	result := pool.Run()
	pool.stops.CompareAndSwap(0, 1)
	end(result)
	close(done)
	listeners.Wait()
	pool.hurry() // nobody is left to hear it: it frees the context
	return result
}

func dispatchSignal(pool *stoppable, sig syscall.Signal) {
	switch {
	case signals.Stop[sig]:
		if !pool.echo.isIt(sig, time.Now()) {
			pool.Stop(signals.Name(sig))
		}
	case signals.Reload[sig]:
		pool.Reload(signals.Name(sig))
	case !signals.Own[sig]:
		pool.Forward(sig)
	}
}

func (o *options) config(oom *cgroup.OOM, log zerolog.Logger) supervisor.Config {
	cfg := supervisor.Config{
		Workers:         o.workers,
		Restart:         o.restart,
		RestartDelay:    o.restartDelay,
		RestartDelayMax: o.restartDelayMax,
		HealthyAfter:    o.healthyAfter,
		GiveUp:          o.giveUp,
		StopSignal:      o.stopSignal,
		StopTimeout:     o.stopTimeout,
		DrainDelay:      o.drainDelay,
		ReadyNotify:     o.ready == "notify",
		MinReady:        o.minReady,
		ReadyTimeout:    o.readyTimeout,
		Watchdog:        o.watchdog,
		StartFirst:      o.reloadOrder == "start-first",
		MaxLifetime:     o.maxLifetime,
		MaxMemory:       o.maxMemory,
		TimeoutSignal:   o.timeoutSignal,
		Memory:          cgroup.RSS,
		OOMKilled:       oom.Killed,
	}
	if cfg.Workers == 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
		auto := log.Info().Int("workers", cfg.Workers).Int("cpus", runtime.NumCPU())
		if n, err := strconv.ParseInt(os.Getenv("GOMAXPROCS"), 10, 32); err == nil && n > 0 { // as the Go runtime reads it
			auto.Msg("--workers auto: as many as GOMAXPROCS says")
		} else {
			auto.Msg("--workers auto: as many as the CPUs that the cgroup grants (GOMAXPROCS)")
		}
	}
	return cfg
}

// environ is what workers inherit: everything but poolinit's settings.
func (o *options) environ() []string {
	flags := sync.OnceValue(func() *pflag.FlagSet { return runFlags(new(options)) }) // seldom needed
	return launch.Environ(func(name string) bool { return strings.HasPrefix(name, envPrefix) && isSetting(flags(), name) })
}
