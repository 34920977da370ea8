package launch

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/stream"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/notify"
	"github.com/poolinit/poolinit/supervisor/output"
)

// A Config says what the workers of a pool have in common.
type Config struct {
	Reaper      *reaper.Reaper
	Args        []string // the command and its arguments
	Env         []string // what all workers inherit
	Dir         string   // in which they run, resolved at each start; "": this program's
	Credential  *syscall.Credential
	Terminal    *reaper.Terminal // of a pool with one worker; or nil
	Relay       *output.Relay    // nil: workers write to this program's stdout and stderr
	Watchdog    time.Duration    // the interval they are asked for; 0: none
	Queue       *ipc.Queue       // which feeds them; nil: they get no messages
	Deliver     string           // how: frames, tagged, lines or exec
	Concurrency int              // messages that a worker handles at the same time, with tagged
	Shares      []*stream.Share  // open sockets that all get
	Log         zerolog.Logger

	// Started, if not nil, is called with each process that was started, from any
	// goroutine.
	Started func(*reaper.Process)
	// CommandKilled, with DeliverExec, is told once of a command that died of a
	// SIGKILL which this program has not sent, and reports whether it was the OOM
	// killer's. It may be nil, and is called from any goroutine.
	CommandKilled func(worker, pid int, exit reaper.Exit, uptime time.Duration) bool
}

// A Launcher starts workers that are all alike.
type Launcher struct{ cfg Config }

// New returns a launcher.
func New(cfg Config) *Launcher { return &Launcher{cfg} }

// Launch starts a worker. It may be called from any goroutine.
func (l *Launcher) Launch(id supervisor.Identity) (p supervisor.Process, err error) {
	if l.cfg.Deliver == DeliverExec {
		p, err = newExecWorker(&l.cfg, id)
	} else {
		p, err = l.launchProcess(id)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start worker: %w", err)
	}
	return p, nil
}

// A process is a worker's process, and what belongs to it on this side.
type process struct {
	proc   *reaper.Process
	notify *notify.Socket
	feed   *feed
}

func (l *Launcher) launchProcess(id supervisor.Identity) (_ supervisor.Process, err error) {
	p := new(process)
	p.notify, err = notify.Listen(func(err error) {
		l.cfg.Log.Warn().Int("worker", id.ID).Err(err).Msg("ignoring invalid notify message (further ones are not logged)")
	})
	if err != nil {
		return nil, err
	}
	if err := l.startProcess(p, id); err != nil {
		p.Release("it could not be started", false)
		return nil, err
	}
	return p, nil
}

func (l *Launcher) startProcess(p *process, id supervisor.Identity) error {
	spec := l.spec(id, p.notify.Name())
	if l.cfg.Queue != nil {
		channel, theirs, err := l.cfg.Queue.NewChannel(id.ID)
		if err != nil {
			return err
		}
		defer theirs.Close()
		p.feed = newFeed(channel)
		spec.Files = append(spec.Files, theirs.Fd())
	}
	var err error
	if p.proc, err = l.start(spec, id); err != nil {
		return err
	}
	if p.feed != nil {
		p.feed.relay(p.proc.Exited(), p.proc.Exiting)
	}
	l.cfg.tellStarted(p.proc)
	p.notify.Serve(p.proc.PID())
	return nil
}

// Info implements supervisor.Process.
func (p *process) Info() supervisor.ProcessInfo {
	info := supervisor.ProcessInfo{PID: p.proc.PID()}
	select {
	case <-p.proc.Exited():
		info.Exit = p.proc.Exit()
	default:
	}
	return info
}

// Events implements supervisor.Process.
func (p *process) Events() supervisor.Events {
	return supervisor.Events{Exited: p.proc.Exited(), Gone: p.proc.Gone(), Notices: p.notify.Messages(), Asks: p.feed.events(), Answered: p.feed.answered()}
}

// Signal implements supervisor.Process.
func (p *process) Signal(target supervisor.Target, sig syscall.Signal) error {
	if target == supervisor.Group {
		return p.proc.SignalGroup(sig)
	}
	return p.proc.Signal(sig)
}

// Feed implements supervisor.Process.
func (p *process) Feed(proven bool, grace time.Time) { p.feed.begin(proven, grace) }

// MarkReady implements supervisor.Process.
func (p *process) MarkReady() { p.feed.markReady() }

// Finish implements supervisor.Process.
func (p *process) Finish() <-chan struct{} { return p.feed.finish() }

// Release implements supervisor.Process.
func (p *process) Release(why string, byPool bool) supervisor.Life {
	life := p.feed.release(why, byPool)
	p.notify.Close()
	return life
}

func (l *Launcher) spec(id supervisor.Identity, socket string) *reaper.Spec {
	files := []uintptr{0, 1, 2}
	for _, s := range l.cfg.Shares {
		files = append(files, s.Fd())
	}
	return &reaper.Spec{
		Args:        l.cfg.Args,
		Env:         l.environ(id, socket),
		Dir:         l.cfg.Dir,
		Files:       files,
		NewGroup:    true,
		DeathSignal: syscall.SIGKILL,
		Credential:  l.cfg.Credential,
		Terminal:    l.cfg.Terminal,
	}
}

// start starts the process with the output that its kind of pool has.
func (l *Launcher) start(spec *reaper.Spec, id supervisor.Identity) (*reaper.Process, error) {
	if l.cfg.Relay == nil {
		return shares(l.cfg.Shares).start(l.cfg.Reaper, spec)
	}
	pipes, err := l.cfg.Relay.Open(id.ID)
	if err != nil {
		return nil, err
	}
	defer pipes.CloseChild()
	l.cfg.give(pipes.Stdout, pipes.Stderr)
	spec.Files[1], spec.Files[2] = pipes.Stdout.Fd(), pipes.Stderr.Fd()
	p, err := shares(l.cfg.Shares).start(l.cfg.Reaper, spec)
	if err == nil {
		pipes.SetPID(p.PID())
	}
	return p, err
}

func (c *Config) tellStarted(p *reaper.Process) {
	if c.Started != nil {
		c.Started(p)
	}
}

// give makes pipes the worker's own, so that it can open /dev/stdout and
// /dev/stderr: that asks for the permissions of the pipe.
func (c *Config) give(pipes ...*os.File) {
	if c.Credential == nil {
		return
	}
	for _, p := range pipes {
		if unix.Fchown(int(p.Fd()), int(c.Credential.Uid), int(c.Credential.Gid)) != nil { // no CAP_CHOWN
			_ = unix.Fchmod(int(p.Fd()), 0o622) // no other process can reach it; if this fails, writing to the descriptor still works
		}
	}
}

// identity is what all workers inherit, and the identity of this one.
func (c *Config) identity(id supervisor.Identity) []string {
	env := make([]string, 0, len(c.Env)+10)
	env = append(env, c.Env...)
	return append(env,
		"POOLINIT_WORKER_ID="+strconv.Itoa(id.ID),
		"POOLINIT_WORKERS="+strconv.Itoa(id.Workers),
		"POOLINIT_GENERATION="+strconv.Itoa(id.Generation))
}

// environ is the environment of a worker's process.
func (l *Launcher) environ(id supervisor.Identity, socket string) []string {
	env := append(l.cfg.identity(id), "NOTIFY_SOCKET="+socket)
	env = append(env, shares(l.cfg.Shares).environ()...)
	if l.cfg.Queue != nil { // its descriptor comes after the shared ones
		if l.cfg.Deliver == "tagged" {
			env = append(env, "POOLINIT_CONCURRENCY="+strconv.Itoa(l.cfg.Concurrency))
		}
		env = append(env, "POOLINIT_DELIVER="+l.cfg.Deliver, "POOLINIT_FD="+strconv.Itoa(firstFD+len(l.cfg.Shares)))
	}
	if l.cfg.Watchdog > 0 {
		env = append(env, "WATCHDOG_USEC="+strconv.FormatInt(l.cfg.Watchdog.Microseconds(), 10))
	}
	return env
}

// OwnVariables returns the names of the variables that a worker gets from its own
// pool, and must not inherit from the manager of poolinit.
func OwnVariables() []string {
	return []string{
		"POOLINIT_WORKER_ID", "POOLINIT_WORKERS", "POOLINIT_GENERATION", "POOLINIT_DELIVER", "POOLINIT_FD", "POOLINIT_CONCURRENCY",
		"POOLINIT_MESSAGE_ID", "POOLINIT_ATTEMPT", "POOLINIT_SOURCE", "POOLINIT_EVENT",
		"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
	}
}

// InDir returns an environment for processes in a directory: PWD is its path, as
// after cd in a shell, with the symbolic links that it goes through.
func InDir(env []string, dir string) []string {
	if dir == "" {
		return env
	}
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "PWD=") })
	if !strings.HasPrefix(dir, "/") {
		wd, err := os.Getwd()
		if err != nil {
			return env // this program's directory has been removed
		}
		dir = wd + "/" + dir
	}
	return append(env, "PWD="+dir)
}

// Environ returns this program's environment without what drop names and
// without what each worker gets itself.
func Environ(drop func(name string) bool) []string {
	own := make(map[string]bool)
	for _, name := range OwnVariables() {
		own[name] = true
	}
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !own[name] && !drop(name) {
			env = append(env, v)
		}
	}
	return env
}
