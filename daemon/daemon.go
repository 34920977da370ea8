// Package daemon is one running poolinit: it puts the packages together and ends
// them in order.
//
// Build makes all parts and binds all sockets, without starting anything. Run
// starts them and returns when there is a reason to stop. Both are in daemon.go.
// Stop ends everything, step by step, and its whole order is in stop.go. The parts
// of its own are small: what signals and the control socket ask for (requests.go),
// the way of messages into the pool (intake.go), the HTTP server and the control
// socket (endpoints.go), the log (log.go), and the command that runs at exit
// (at_exit.go).
//
// It knows every other package but cli, which fills in its Config.
package daemon

import (
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc/stream"
	"github.com/poolinit/poolinit/metrics"
	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/reaper/awake"
	"github.com/poolinit/poolinit/reaper/cgroup"
	"github.com/poolinit/poolinit/reaper/proc"
	"github.com/poolinit/poolinit/reaper/signals"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/launch"
	"github.com/poolinit/poolinit/supervisor/output"
)

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
	cfg.MemoryLimit = cgroup.Limit("")
	setMemoryLimit(cfg.fitMemory(log))
	d, code, err := orStop(func() (*Daemon, int, error) { return prepare(&cfg, stderr, log) }, log)
	if err != nil {
		return 0, failed(&cfg, log, err)
	}
	if d == nil {
		return code, nil
	}
	return d.stopAtLast(d.Run()), nil
}

// prepare builds the daemon. It is nil, with an exit code, if the command can never
// run; that has been logged then.
func prepare(cfg *Config, stderr *output.Dest, log zerolog.Logger) (d *Daemon, code int, err error) {
	if err := reaper.LookDir(cfg.Chdir); err != nil {
		return nil, 0, fmt.Errorf("cannot use --chdir: %w", err)
	}
	if err := reaper.Look(cfg.Command, cfg.Env, cfg.Chdir); err != nil {
		return nil, refuse(log, cfg, err), nil
	}
	d, err = Build(cfg, output.NewRelay(cfg.Output, os.Stdout, stderr), log)
	return d, 0, err
}

// startTick is how often it is looked for a stop signal while the start goes on, and
// startGrace how long the start may take after one. It hangs then, on a disk.
const (
	startTick  = 100 * time.Millisecond
	startGrace = 2 * time.Second
)

// orStop prepares a daemon. If that hangs and a stop signal comes, it is left behind,
// and the exit code is that of a stop which had to kill.
func orStop(prepare func() (*Daemon, int, error), log zerolog.Logger) (d *Daemon, code int, err error) {
	type prepared struct {
		d    *Daemon
		code int
		err  error
	}
	done := make(chan prepared, 1) // 1: it may be left behind
	go func() {                    // ends with the start; one that hangs ends with the program
		d, code, err := prepare()
		done <- prepared{d, code, err}
	}()
	for waited := time.Duration(0); waited < startGrace; {
		select {
		case p := <-done:
			return p.d, p.code, p.err
		case <-time.After(startTick):
		}
		if signals.Early().Waits(signals.Stop) {
			waited += startTick
		}
	}
	log.Error().Msg("the start hangs, and a stop was asked for: ending the process")
	return nil, killedCode, nil
}

// failed writes to the termination log why nothing is started, and returns it.
func failed(cfg *Config, log zerolog.Logger, err error) error {
	terminationLog{cfg.TerminationLog, log}.write("poolinit: "+err.Error(), "")
	return err
}

// A Daemon is one poolinit.
type Daemon struct {
	cfg       *Config
	log       zerolog.Logger
	relay     *output.Relay
	awake     *awake.Watch // may be nil
	reaper    namespace
	oom       *cgroup.OOM
	intake    messages
	terminal  *reaper.Terminal // nil: the worker does not get it
	pool      *requests
	endpoints *endpoints
	atExit    exitCommand // nil: not asked for
	manager   *manager    // nil: there is none

	poolEnded  chan supervisor.Result // 1: said once, and the pool never waits for the reader
	signalsOff chan struct{}          // closed when no signal matters any more
	listeners  sync.WaitGroup
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
	if err := refused(cfg); err != nil {
		return nil, err
	}
	oom := cgroup.NewOOM() // reads files, which costs more CPU time once there are many threads
	reserveThreads()
	reaper.SealFiles()
	reap := newReaper(func(_ int, exit reaper.Exit) { oom.Orphan(exit.Signal) }, log)
	opened.add(reap.Close)
	confine(cfg, reap, log)

	if err := openShares(cfg, &opened, log); err != nil {
		return nil, err
	}
	var http net.Listener // nil: not asked for
	if cfg.HTTP != "" {
		if http, err = metrics.Listen(cfg.HTTP); err != nil {
			return nil, err
		}
		opened.add(func() { http.Close() })
	}

	// The watch, the workers and the pool call back only while the pool runs: pool and
	// ends are set by then.
	var (
		pool *requests
		ends *endpoints
	)
	watch := newWatch(func() { pool.extend() }, log)
	in, err := openIntake(cfg, relay, watch, log)
	if err != nil {
		return nil, err
	}
	workers := launch.Config{
		Reaper: reap, Args: cfg.Command, Env: launch.InDir(cfg.Env, cfg.Chdir), Dir: cfg.Chdir, Credential: cfg.Credential,
		Terminal: openTerminal(cfg), Relay: relay, Watchdog: cfg.Pool.Watchdog,
		Queue: in.feed(), Deliver: cfg.Deliver, Concurrency: cfg.Queue.Concurrency, Shares: cfg.Share, Log: log,
		Started: newOOMOrder(cfg.OOMScoreAdj, log),
		CommandKilled: func(worker, pid int, exit reaper.Exit, uptime time.Duration) bool {
			return pool.CommandKilled(worker, pid, exit, uptime)
		},
	}
	poolConfig := cfg.Pool
	poolConfig.Awake = watch
	poolConfig.Memory, poolConfig.OOMKilled, poolConfig.ProcState = proc.RSS, oom.Killed, proc.State
	poolConfig.Look = func() error { return reaper.Look(cfg.Command, cfg.Env, cfg.Chdir) }
	poolConfig.LastLines, poolConfig.Foreground = relay.Tail, foreground(cfg.Command)
	poolConfig.Background = func(since time.Time) []string { return names(reap.Adopted(since)) }
	poolConfig.Interactive = workers.Terminal != nil
	if http != nil {
		poolConfig.OnReload = func(r supervisor.ReloadResult) { ends.http.ReloadEnded(r) }
	}
	pool = newRequests(supervisor.New(poolConfig, launch.New(workers).Launch, log), cfg.auto, cfg.Pool.StopTimeout, cfg.Signals, log)
	view := newView(cfg, pool.Pool, reap, in)
	ends = newEndpoints(http, cfg, view, &operator{pool, in.feed(), log}, log)
	var exit exitCommand
	if cfg.RunAtExit {
		exit = &atExit{workers, pool.Places, watch, log}
	}
	return &Daemon{
		cfg: cfg, log: log, relay: relay, awake: watch, reaper: reap, oom: oom, intake: in, terminal: workers.Terminal, pool: pool, endpoints: ends, atExit: exit,
		manager:   newManager(os.Getenv, os.Getpid(), view, log),
		poolEnded: make(chan supervisor.Result, 1), signalsOff: make(chan struct{}),
	}, nil
}

// Run starts everything, and returns when the pool has to stop. It reports whether
// the pool is helpless, because it is over by itself.
func (d *Daemon) Run() (helpless bool) {
	logStart(d.log, d.cfg)
	if err := d.oom.Err(); err != nil {
		d.log.Warn().Err(err).Msg("OOM kills cannot be told apart from other SIGKILLs")
	}
	if d.cfg.Pool.MaxMemory == 0 && cgroup.KillsGroup("") {
		d.log.Warn().Msg("memory.oom.group is set: out of memory, the kernel kills the whole container, not one worker")
	}
	for _, s := range d.cfg.Share {
		d.log.Info().Str("socket", s.URL).Str("name", s.Name).Msg("sharing a listening socket with the workers")
	}
	if d.intake.takesMessages() {
		d.intake.serve()
	}
	d.endpoints.serve()
	mailbox := signals.Early()
	d.listeners.Go(func() { mailbox.Each(d.signalsOff, d.pool.signal) })
	d.listeners.Go(mailbox.CatchRest)
	d.listeners.Go(func() { d.manager.serve(d.signalsOff) })
	d.runPool()
	return d.reasonToStop()
}

func (d *Daemon) runPool() {
	go func() { d.poolEnded <- d.pool.Run() }() // ends with the workers; stopWorkers waits for it
}

// confine keeps workers from what only poolinit may have: its memory, with the TLS
// keys, and, as another user, privileges.
func confine(cfg *Config, reap *reaper.Reaper, log zerolog.Logger) {
	if err := reaper.HideMemory(); err != nil {
		log.Warn().Err(err).Msg("cannot hide poolinit's memory from processes of the same user")
	}
	if cfg.Credential == nil || cfg.NewPrivs {
		return
	}
	if err := reap.Confine(); err != nil {
		log.Warn().Err(err).Msg("cannot take all privileges from the workers")
	}
}

// openShares opens the shared sockets. They stay open until the workers are gone: what
// connects between two of them waits. This is before any other descriptor could get
// the number of one that poolinit was said to be given.
func openShares(cfg *Config, opened *closers, log zerolog.Logger) error {
	given := stream.InheritedSockets(os.Getenv, os.Getpid())
	for _, s := range cfg.Share {
		if err := s.Open(given); err != nil {
			return err
		}
		opened.add(s.Close)
	}
	if unused := stream.CloseUnused(given, cfg.Share); unused != "" {
		log.Warn().Str("sockets", unused).Msg("closing inherited sockets: no --share hands them on")
	}
	return nil
}

// newReaper returns the reaper. Where the kernel does not let this process adopt
// orphans, it reaps only the workers.
func newReaper(onOrphan func(pid int, exit reaper.Exit), log zerolog.Logger) *reaper.Reaper {
	reap, err := reaper.New(onOrphan)
	if err != nil {
		log.Warn().Err(err).Msg("orphans will not be reaped")
		reap = reaper.NewPlain(onOrphan)
	}
	logLacks(reap, log)
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
		Version: cfg.Version, PID: os.Getpid(), Pool: pool, Reaper: reap,
		QueueMessages: cfg.Queue.QueueMessages, QueueBytes: cfg.Queue.QueueBytes, ReplyBytes: cfg.Queue.ReplyBytes,
	}
	if in.takesMessages() {
		v.Queue, v.Sources, v.Serving, v.Spool = in.queue, in.sources, in.taking.Load, in.spoolStats
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
