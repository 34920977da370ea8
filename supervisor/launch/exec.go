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
)

// DeliverExec is the Deliver of workers that have no process of their own: the
// command runs once a message.
const DeliverExec = "exec"

// An execWorker is a worker without a process of its own. It has the worker's end
// of a channel, and runs the command for each message that arrives there. To the
// pool it looks like a process that never fails by itself, unless the command
// cannot be started.
type execWorker struct {
	cfg  *Config
	id   supervisor.Identity
	feed *feed
	sock net.Conn
	in   *bufio.Reader

	exited chan struct{}
	exit   reaper.Exit // set before exited is closed

	mu        sync.Mutex
	running   *reaper.Process // or nil
	used      time.Duration   // CPU time of the commands that have ended
	finishing bool
	order     syscall.Signal // what the group was sent since; 0: nothing
}

func newExecWorker(cfg *Config, id supervisor.Identity) (supervisor.Process, error) {
	if err := reaper.Look(cfg.Args, cfg.Env, cfg.Dir); err != nil { // it runs only once there is a message
		return nil, err
	}
	channel, theirs, err := cfg.Queue.NewChannel(id.ID)
	if err != nil {
		return nil, err
	}
	sock, err := net.FileConn(theirs)
	theirs.Close()
	if err != nil {
		channel.Close("it could not be started")
		return nil, err
	}
	w := &execWorker{cfg: cfg, id: id, feed: newFeed(channel), sock: sock, in: bufio.NewReader(sock), exited: make(chan struct{})}
	w.feed.relay(w.exited, func() bool { return false }) // a worker that is not a process cannot detach
	go w.live()                                          // ends when Finish or SIGKILL says so, and closes exited, for which the pool waits
	return w, nil
}

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
	held, ok := w.feed.channel.InHand()
	if !ok {
		return false // taken back: the channel is over
	}
	j, err := w.start(body, held)
	if err != nil {
		w.cfg.Log.Warn().Int("worker", w.id.ID).Err(err).Msg("cannot start the command")
		w.exit.Code = reaper.ExitCode(err)
		w.feed.channel.HandBack()
		return false
	}
	j.wait()
	w.exit.Peak = max(w.exit.Peak, j.exit().Peak)
	ordered := w.ended(j.exit().Rusage)
	if ordered && j.exit().Status() != 0 {
		// The pool ended it, and knows better why: what it tells Release is the message's record.
		w.exit = j.exit()
		return false
	}
	_, err = w.sock.Write(j.answer(w.ranOutOfMemory(j)))
	return err == nil
}

// ranOutOfMemory asks about a command that the pool did not want to end.
func (w *execWorker) ranOutOfMemory(j *job) bool {
	exit, ask := j.exit(), w.cfg.CommandKilled
	if exit.Signal != syscall.SIGKILL || j.tooLong || ask == nil {
		return false
	}
	return ask(w.id.ID, j.proc.PID(), exit, exit.At.Sub(j.began))
}

// start starts the command. The order to die may have come at any time.
func (w *execWorker) start(body []byte, held ipc.Holding) (*job, error) {
	j, err := startJob(w.cfg, w.id, body, held)
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

// Info implements supervisor.Process. The PID is that of the command, if it runs
// now. The exit is 0, or how the command ended that had to be ended, or what a
// shell says of a command that cannot be started.
func (w *execWorker) Info() supervisor.ProcessInfo {
	w.mu.Lock()
	defer w.mu.Unlock()
	info := supervisor.ProcessInfo{CPU: w.used}
	if w.running != nil {
		info.PID = w.running.PID()
	}
	select {
	case <-w.exited:
		info.Exit = w.exit
	default:
	}
	return info
}

// Events implements supervisor.Process. Exited is closed when the worker takes
// no more messages and its command has ended; so is Gone, since the command's
// group is swept each time. A command that runs for one message has no state to
// tell of.
func (w *execWorker) Events() supervisor.Events {
	return supervisor.Events{Exited: w.exited, Gone: w.exited, Asks: w.feed.events(), Answered: w.feed.answered()}
}

// Signal implements supervisor.Process: it passes a signal on to the command, if
// that runs now. A signal to the group after Finish is there to end the worker,
// which goes with its command.
func (w *execWorker) Signal(target supervisor.Target, sig syscall.Signal) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if target == supervisor.Group {
		w.noteOrder(sig)
	}
	switch {
	case w.running == nil:
		return nil
	case target == supervisor.Group:
		return w.running.SignalGroup(sig)
	}
	return w.running.Signal(sig)
}

// noteOrder keeps a signal that is to end the worker. The caller holds mu.
func (w *execWorker) noteOrder(sig syscall.Signal) {
	if w.finishing && sig != syscall.SIGCONT {
		w.order = sig
	}
	if sig == syscall.SIGKILL {
		_ = w.sock.SetReadDeadline(time.Unix(1, 0)) // ends the wait for a message
	}
}

// Feed implements supervisor.Process. There is no start of the worker to wait
// for: it is proven.
func (w *execWorker) Feed(bool, time.Time) { w.feed.begin(true, time.Time{}) }

// MarkReady implements supervisor.Process.
func (w *execWorker) MarkReady() {}

// Finish implements supervisor.Process.
func (w *execWorker) Finish() <-chan struct{} {
	w.mu.Lock()
	w.finishing = true
	w.mu.Unlock()
	return w.feed.finish()
}

// Release implements supervisor.Process.
func (w *execWorker) Release(why string, byPool bool) supervisor.Life {
	life := w.feed.release(why, byPool)
	w.sock.Close()
	return life
}
