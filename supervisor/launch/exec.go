package launch

import (
	"bufio"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/notify"
)

// DeliverExec is the Deliver of workers that are no processes: the command runs
// once a message.
const DeliverExec = "exec"

// An execWorker is a worker that is no process. It has the worker's end of a
// channel, and runs the command for each message that comes by it. To the pool
// it looks like a process that never fails by itself, unless the command cannot
// be started.
type execWorker struct {
	l       *Launcher
	id      supervisor.Identity
	channel *ipc.Channel
	sock    net.Conn
	in      *bufio.Reader

	exited chan struct{}
	exit   reaper.Exit // set before exited is closed

	mu        sync.Mutex
	running   *reaper.Process // or nil
	used      time.Duration   // CPU time of the commands that have ended
	finishing bool
	order     syscall.Signal // what the group was sent since; 0: nothing
}

func (l *Launcher) launchExec(id supervisor.Identity) (*execWorker, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	channel, theirs, err := l.Queue.NewChannel(id.ID)
	if err != nil {
		return nil, err
	}
	sock, err := net.FileConn(theirs)
	theirs.Close()
	if err != nil {
		channel.Close("it could not be started")
		return nil, err
	}
	w := &execWorker{l: l, id: id, channel: channel, sock: sock, in: bufio.NewReader(sock), exited: make(chan struct{})}
	go w.live() // ends when Finish or SIGKILL says so, and closes exited, for which the pool waits
	return w, nil
}

// Check returns the error that starting the command would. Where it runs only
// once there is a message, that must be known before.
func (l *Launcher) Check() error { return reaper.Look(l.Args, l.Env) }

// live handles messages until there are no more, or the worker is to die.
func (w *execWorker) live() {
	defer close(w.exited)
	for {
		body, err := w.next()
		if err != nil || !w.handle(body) {
			w.exit.At = time.Now()
			return
		}
	}
}

// next waits for a message. How long it may be was looked at when it came.
func (w *execWorker) next() ([]byte, error) {
	body, _, err := frame.Read(w.in, frame.MaxBody)
	return body, err
}

// handle runs the command for a message and answers it. It reports whether the
// worker goes on.
func (w *execWorker) handle(body []byte) bool {
	held, ok := w.channel.InHand()
	if !ok {
		return false // taken back: the channel is over
	}
	j, err := w.start(body, held)
	if err != nil {
		w.l.Log.Warn().Int("worker", w.id.ID).Err(err).Msg("the command cannot be started")
		w.exit.Code = reaper.ExitCode(err)
		w.channel.HandBack()
		return false
	}
	j.wait()
	w.exit.Rusage.Maxrss = max(w.exit.Rusage.Maxrss, j.proc.Exit().Rusage.Maxrss)
	ordered := w.ended(j.proc.Exit().Rusage)
	if ordered && j.proc.Exit().Status() != 0 {
		// The pool ended it, and knows better why: what it tells Release is the message's record.
		w.exit = j.proc.Exit()
		return false
	}
	_, err = w.sock.Write(j.answer(w.ranOutOfMemory(j)))
	return err == nil
}

// ranOutOfMemory asks about a command that the pool did not want to end.
func (w *execWorker) ranOutOfMemory(j *job) bool {
	exit, ask := j.proc.Exit(), w.l.CommandKilled
	if exit.Signal != syscall.SIGKILL || j.tooLong || ask == nil {
		return false
	}
	return ask(w.id.ID, j.proc.PID(), exit, exit.At.Sub(j.began))
}

// start starts the command. The order to die may have come at any time.
func (w *execWorker) start(body []byte, held ipc.Holding) (*job, error) {
	j, err := w.l.startJob(w.id, body, held)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running = j.proc; w.order != 0 {
		_ = j.proc.SignalGroup(w.order) // ended already: fine
	}
	return j, nil
}

// ended notes that the command has ended, and reports whether the pool had
// wanted it to.
func (w *execWorker) ended(usage syscall.Rusage) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	w.running = nil
	return w.order != 0
}

// PID returns that of the command, or 0 if it does not run now.
func (w *execWorker) PID() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running == nil {
		return 0
	}
	return w.running.PID()
}

// Used returns the CPU time of its commands that have ended.
func (w *execWorker) Used() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.used
}

// Signal passes a signal on to the command, if it runs now.
func (w *execWorker) Signal(sig syscall.Signal) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running == nil {
		return nil
	}
	return w.running.Signal(sig)
}

// SignalGroup signals the command's group. After Finish, that is to end the
// worker: it goes with its command.
func (w *execWorker) SignalGroup(sig syscall.Signal) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.finishing && sig != syscall.SIGCONT {
		w.order = sig
	}
	if sig == syscall.SIGKILL {
		_ = w.sock.SetReadDeadline(time.Unix(1, 0)) // ends the wait for a message
	}
	if w.running == nil {
		return nil
	}
	return w.running.SignalGroup(sig)
}

// Exited is closed when the worker takes no more messages and its command has
// ended; Gone as well, since the command's group is swept each time.
func (w *execWorker) Exited() <-chan struct{} { return w.exited }

// Gone implements supervisor.Process.
func (w *execWorker) Gone() <-chan struct{} { return w.exited }

// Exit is 0, or how the command ended that had to be ended, or what a shell
// says of one that cannot be started.
func (w *execWorker) Exit() reaper.Exit { return w.exit }

// Exiting is never asked: only a process can close its channel and live on.
func (w *execWorker) Exiting() bool { return false }

// Notices yields nothing: what runs for one message has no state to tell of.
func (w *execWorker) Notices() <-chan notify.Message { return nil }

// Serve begins to take messages.
func (w *execWorker) Serve() { w.channel.Serve() }

// Finish ends that. The channel is closed when the command has answered.
func (w *execWorker) Finish() <-chan struct{} {
	w.mu.Lock()
	w.finishing = true
	w.mu.Unlock()
	return w.channel.Finish()
}

// Asks yields what the channel wants done.
func (w *execWorker) Asks() <-chan ipc.Ask { return w.channel.Asks() }

// Release ends the channel. What was not answered goes to others.
func (w *execWorker) Release(why string, byPool bool) {
	if byPool {
		w.channel.Spare()
	}
	w.channel.Close(why)
	w.sock.Close()
}
