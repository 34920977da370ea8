// Package daemon is one running poolinit: it puts the packages together and ends
// them in order.
//
// Build makes all parts and binds all sockets, without starting anything. Run
// starts them and returns when the pool has ended. Stop ends what is left, step by
// step. Each of the three is read from top to bottom in daemon.go. The parts of
// its own are small: the way of messages into the pool (intake.go), the HTTP
// server and the control socket (endpoints.go), the log (log.go), and the command
// that runs at exit (at_exit.go).
//
// It knows every other package but cli, which fills in its Config.
package daemon

import (
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/metrics"
	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/reaper/cgroup"
	"github.com/poolinit/poolinit/reaper/proc"
	"github.com/poolinit/poolinit/reaper/signals"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/launch"
	"github.com/poolinit/poolinit/supervisor/output"
)

// lastLines is how long the end waits for output that is read slowly, or not at
// all. What is not written by then is lost.
const lastLines = time.Second

// leastGrace is how long processes that are left over get between TERM and KILL
// even if --stop-timeout has elapsed.
const leastGrace = 100 * time.Millisecond

// Main runs one poolinit from its start to its end, and returns its exit code.
// It logs the warnings. The error says why poolinit cannot start, for the user;
// then it has started nothing.
func Main(cfg Config, warnings []string) (code int, err error) {
	stderr := output.NewDest(os.Stderr)
	log, sink := newLogger(cfg.Log, stderr)
	defer func() { _ = sink.Close(lastLines) }() // a failure could be logged only there
	for _, w := range warnings {
		log.Warn().Msg(w)
	}
	cfg.Pool.Workers = cfg.workers(log) // first: reserveThreads lowers GOMAXPROCS
	if err := reaper.Look(cfg.Command, cfg.Env); err != nil {
		return refuse(log, &cfg, err), nil
	}
	d, err := Build(&cfg, output.NewRelay(cfg.Output, os.Stdout, stderr), log)
	if err != nil {
		return 0, err
	}
	return d.Stop(d.Run()), nil
}

// A Daemon is one poolinit.
type Daemon struct {
	cfg       *Config
	log       zerolog.Logger
	relay     *output.Relay
	reaper    *reaper.Reaper
	oom       *cgroup.OOM
	intake    *intake
	terminal  *reaper.Terminal // nil: the worker does not get it
	pool      *requests
	endpoints *endpoints
	atExit    *atExit

	ended     chan struct{} // closed when no signal matters any more
	listeners sync.WaitGroup
}

// Build makes all parts and binds all sockets. What it binds is not served before
// Run. If Build fails, it closes what it has bound.
func Build(cfg *Config, relay *output.Relay, log zerolog.Logger) (_ *Daemon, err error) {
	var opened closers
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	oom := cgroup.NewOOM() // reads files, which costs more CPU time once there are many threads
	reserveThreads()
	reaper.SealFiles()
	reap := newReaper(func(_ int, exit reaper.Exit) { oom.Orphan(exit.Signal) }, log)
	opened.add(reap.Close)

	for _, s := range cfg.Share { // open until the workers are gone: what connects between two of them waits
		if err := s.Open(); err != nil {
			return nil, err
		}
		opened.add(s.Close)
	}
	var http net.Listener // nil: not asked for
	if cfg.HTTP != "" {
		if http, err = metrics.Listen(cfg.HTTP); err != nil {
			return nil, err
		}
		opened.add(func() { http.Close() })
	}
	in, err := openIntake(cfg, relay, log)
	if err != nil {
		return nil, err
	}

	// The workers and the pool call back only while the pool runs: pool and ends are
	// set by then.
	var (
		pool *requests
		ends *endpoints
	)
	workers := launch.Config{
		Reaper: reap, Args: cfg.Command, Env: cfg.Env, Credential: cfg.Credential,
		Terminal: openTerminal(cfg), Relay: relay, Watchdog: cfg.Pool.Watchdog,
		Queue: in.feed(), Deliver: cfg.Deliver, Shares: cfg.Share, Log: log,
		CommandKilled: func(worker, pid int, exit reaper.Exit, uptime time.Duration) bool {
			return pool.CommandKilled(worker, pid, exit, uptime)
		},
	}
	poolConfig := cfg.Pool
	poolConfig.Memory, poolConfig.OOMKilled = proc.RSS, oom.Killed
	poolConfig.Interactive = workers.Terminal != nil
	if in.takesMessages() {
		poolConfig.Drain, poolConfig.Waiting = in.drain, in.messagesWait
	}
	if http != nil {
		poolConfig.OnReload = func(r supervisor.ReloadResult) { ends.http.ReloadEnded(r) }
	}
	pool = newRequests(supervisor.New(poolConfig, launch.New(workers).Launch, log))
	ends = newEndpoints(http, cfg.Revision, newView(cfg, pool.Pool, reap, in), pool, log)
	return &Daemon{
		cfg: cfg, log: log, relay: relay, reaper: reap, oom: oom, intake: in, terminal: workers.Terminal, pool: pool, endpoints: ends,
		atExit: &atExit{workers, cfg.Pool.Workers, log}, ended: make(chan struct{}),
	}, nil
}

// Run starts everything, and returns when the pool has ended: all its workers are
// gone.
func (d *Daemon) Run() supervisor.Result {
	logStart(d.log, d.cfg)
	if err := d.oom.Err(); err != nil {
		d.log.Warn().Err(err).Msg("OOM kills cannot be told apart from other SIGKILLs")
	}
	for _, s := range d.cfg.Share {
		d.log.Info().Str("socket", s.URL).Str("name", s.Name).Msg("sharing a listening socket with the workers")
	}
	if d.intake.takesMessages() {
		d.intake.serve()
	}
	d.endpoints.serve()
	mailbox := signals.Early()
	d.listeners.Go(func() { mailbox.Each(d.ended, d.pool.signal) })
	d.listeners.Go(mailbox.CatchRest)
	return d.pool.Run()
}

// Stop ends what the pool has left, and returns the exit code. The pool itself has
// done the first half of a stop: it was not ready any more from the request on,
// served until --drain-delay was over, then had the intake drained, and stopped the
// workers. Whatever is asked of the pool from now on hurries what follows.
func (d *Daemon) Stop(pool supervisor.Result) (code int) {
	began := time.Now().Add(-pool.Took)
	deadline := began.Add(d.cfg.Pool.StopTimeout)
	d.pool.ended()

	// Clients read how their messages ended, and their connections are closed.
	d.intake.close(d.pool.hurried, deadline)
	// The command at exit runs when nothing else of the pool does.
	if d.cfg.RunAtExit {
		d.atExit.run(d.pool.hurried, deadline)
	}
	// What is left in the namespace ends, by TERM and KILL.
	d.reaper.EndRest(d.pool.hurried, max(time.Until(deadline), leastGrace))
	// No signal can hurry anything any more.
	close(d.ended)
	d.listeners.Wait()
	d.pool.hurry() // it frees the context
	// The last lines of the workers, and the last one of the log.
	_ = d.relay.Close(lastLines) // a process that keeps a stream open is not a worker any more
	if lost := d.relay.Lost(); lost > 0 {
		d.log.Warn().Uint64("lost", lost).Msg("worker output lost: writing failed")
	}
	logEnd(d.log, pool.Code, pool.Killed, d.intake.totals(), began)
	// The terminal goes back to the shell. The endpoints come late, so that a last scrape
	// sees the end.
	d.terminal.Close()
	d.endpoints.close()
	for _, s := range d.cfg.Share {
		s.Close()
	}
	d.reaper.Close()
	return pool.Code
}

// newReaper returns the reaper. Where the kernel does not let this process adopt
// orphans, it reaps only the workers.
func newReaper(onOrphan func(pid int, exit reaper.Exit), log zerolog.Logger) *reaper.Reaper {
	reap, err := reaper.New(onOrphan)
	if err != nil {
		log.Warn().Err(err).Msg("orphans will not be reaped")
		return reaper.NewPlain(onOrphan)
	}
	return reap
}

// openTerminal returns the terminal, if there is one, for a pool with one worker:
// that worker may read from it. Two would take each other's input.
func openTerminal(cfg *Config) *reaper.Terminal {
	if cfg.Pool.Workers != 1 || cfg.RunsPerMessage() {
		return nil
	}
	return reaper.OpenTerminal()
}

// newView returns what the endpoints look at.
func newView(cfg *Config, pool *supervisor.Pool, reap *reaper.Reaper, in *intake) *status.View {
	v := &status.View{
		Version: cfg.Version, PID: os.Getpid(), Workers: cfg.Pool.Workers, Pool: pool, Reaper: reap,
		QueueMessages: cfg.Queue.QueueMessages, QueueBytes: cfg.Queue.QueueBytes,
	}
	if in.takesMessages() {
		v.Queue, v.Sources, v.Serving = in.queue, in.sources, in.taking.Load
	}
	return v
}

// closers are what has been opened, to be closed in the opposite order.
type closers []func()

func (c *closers) add(f func()) { *c = append(*c, f) }

func (c closers) close() {
	for _, f := range slices.Backward(c) {
		f()
	}
}
