// Package launch starts the processes of a pool's workers: their environment,
// their descriptors, their output, and the socket on which they say that they
// are ready.
package launch

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/stream"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/notify"
	"github.com/poolinit/poolinit/supervisor/output"
)

// A Launcher starts workers that are all alike. Its fields are set once, before
// the first Launch.
type Launcher struct {
	Reaper     *reaper.Reaper
	Args       []string // the command and its arguments
	Env        []string // what all workers inherit
	Credential *syscall.Credential
	Terminal   *reaper.Terminal // of a pool with one worker; or nil
	Relay      *output.Relay    // nil: workers write to this program's stdout and stderr
	Watchdog   time.Duration    // the interval they are asked for; 0: none
	Queue      *ipc.Queue       // which feeds them; nil: they get no messages
	Deliver    string           // how: frames, lines or exec
	Shares     []*stream.Share  // open sockets that all get
	Log        zerolog.Logger

	// CommandKilled, with DeliverExec, is told of a command that died of a SIGKILL
	// which nobody here has sent, once, and says whether it was the OOM killer's. It
	// may be nil, and is called from any goroutine.
	CommandKilled func(worker, pid int, exit reaper.Exit, uptime time.Duration) bool
}

// A Process is a worker's process, and what there is on this side of it.
type Process struct {
	*reaper.Process
	notify  *notify.Socket
	channel *ipc.Channel // nil: no messages
}

// Notices yields what the process says by sd_notify.
func (p *Process) Notices() <-chan notify.Message { return p.notify.Messages() }

// Serve begins to feed it messages.
func (p *Process) Serve() {
	if p.channel != nil {
		p.channel.Serve()
	}
}

// Finish ends the feeding. The channel is closed when it has answered what it
// had.
func (p *Process) Finish() <-chan struct{} {
	if p.channel == nil {
		return nothingInHand
	}
	return p.channel.Finish()
}

// nothingInHand is closed.
var nothingInHand = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Asks yields what its channel wants done about it.
func (p *Process) Asks() <-chan ipc.Ask {
	if p.channel == nil {
		return nil
	}
	return p.channel.Asks()
}

// Release closes this side of it. What it has not answered goes to others.
func (p *Process) Release(why string, byPool bool) {
	if p.channel != nil {
		if byPool {
			p.channel.Spare()
		}
		p.channel.Close(why)
	}
	p.notify.Close()
}

// Launch starts a worker. It may be called from any goroutine.
func (l *Launcher) Launch(id supervisor.Identity) (supervisor.Process, error) {
	if l.Deliver == DeliverExec {
		w, err := l.launchExec(id)
		if err != nil {
			return nil, fmt.Errorf("cannot start worker: %w", err)
		}
		return w, nil
	}
	p := new(Process)
	if err := l.launch(p, id); err != nil {
		if p.notify != nil {
			p.Release("it could not be started", false)
		}
		return nil, fmt.Errorf("cannot start worker: %w", err)
	}
	return p, nil
}

func (l *Launcher) launch(p *Process, id supervisor.Identity) (err error) {
	p.notify, err = notify.Listen(func(err error) {
		l.Log.Warn().Int("worker", id.ID).Err(err).Msg("ignoring a notify message (no more of this kind will be logged)")
	})
	if err != nil {
		return err
	}
	spec := l.spec(id, p.notify.Name())
	if l.Queue != nil {
		var theirs *os.File
		if p.channel, theirs, err = l.Queue.NewChannel(id.ID); err != nil {
			return err
		}
		defer theirs.Close()
		spec.Files = append(spec.Files, theirs.Fd())
	}
	if p.Process, err = l.start(spec, id); err != nil {
		return err
	}
	p.notify.Serve(p.PID())
	return nil
}

func (l *Launcher) spec(id supervisor.Identity, socket string) *reaper.Spec {
	files := []uintptr{0, 1, 2}
	for _, s := range l.Shares {
		files = append(files, s.Fd())
	}
	return &reaper.Spec{
		Args:        l.Args,
		Env:         l.environ(id, socket),
		Files:       files,
		NewGroup:    true,
		DeathSignal: syscall.SIGKILL,
		Credential:  l.Credential,
		Terminal:    l.Terminal,
	}
}

// start starts the process with the output that its kind of pool has.
func (l *Launcher) start(spec *reaper.Spec, id supervisor.Identity) (*reaper.Process, error) {
	if l.Relay == nil {
		return l.begin(spec)
	}
	pipes, err := l.Relay.Open(id.ID)
	if err != nil {
		return nil, err
	}
	defer pipes.CloseChild()
	spec.Files[1], spec.Files[2] = pipes.Stdout.Fd(), pipes.Stderr.Fd()
	p, err := l.begin(spec)
	if err == nil {
		pipes.SetPID(p.PID())
	}
	return p, err
}

// identity is what all inherit, and who a worker is.
func (l *Launcher) identity(id supervisor.Identity) []string {
	env := make([]string, 0, len(l.Env)+10)
	env = append(env, l.Env...)
	return append(env,
		"POOLINIT_WORKER_ID="+strconv.Itoa(id.ID),
		"POOLINIT_WORKERS="+strconv.Itoa(id.Workers),
		"POOLINIT_GENERATION="+strconv.Itoa(id.Generation))
}

// environ is the environment of a worker's process.
func (l *Launcher) environ(id supervisor.Identity, socket string) []string {
	env := append(l.identity(id), "NOTIFY_SOCKET="+socket)
	env = append(env, l.shareEnviron()...)
	if l.Queue != nil { // its descriptor comes after the shared ones
		env = append(env, "POOLINIT_DELIVER="+l.Deliver, "POOLINIT_FD="+strconv.Itoa(firstFD+len(l.Shares)))
	}
	if l.Watchdog > 0 {
		env = append(env, "WATCHDOG_USEC="+strconv.FormatInt(l.Watchdog.Microseconds(), 10))
	}
	return env
}

// OwnVariables returns the names of the variables that a worker gets from its own
// pool, and must not inherit from the manager of poolinit.
func OwnVariables() []string {
	return []string{
		"POOLINIT_WORKER_ID", "POOLINIT_WORKERS", "POOLINIT_GENERATION", "POOLINIT_DELIVER", "POOLINIT_FD",
		"POOLINIT_MESSAGE_ID", "POOLINIT_ATTEMPT", "POOLINIT_SOURCE", "POOLINIT_EVENT",
		"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
	}
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
