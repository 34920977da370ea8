package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
)

// A job is one run of the command, for one message.
type job struct {
	cfg    *Config
	proc   *reaper.Process
	began  time.Time
	stdout *os.File // what it prints

	reader  sync.WaitGroup
	reply   []byte // a frame: room for its header, and what was printed
	tooLong bool

	killed   chan struct{} // closed when the job itself has sent SIGKILL
	survived bool          // the command survived that, and is not waited for
}

// restGrace is how long processes that the command has left in its group may
// take to end by themselves (the parts of a pipeline do not end all at once), and
// how long after its end what it printed may take to arrive. Then they are
// stopped, and what a process outside of the group may still print is dropped.
const restGrace = 100 * time.Millisecond

// stopGrace is how long they have from SIGTERM to SIGKILL, and then to be gone.
const stopGrace = time.Second

// startJob starts the command for a message.
func startJob(cfg *Config, id supervisor.Identity, body []byte, held ipc.Holding) (*job, error) {
	stdin, err := fileOf(body)
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	stdout, theirs, err := readablePipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cfg.give(theirs)
	j := &job{cfg: cfg, began: time.Now(), stdout: stdout, reply: make([]byte, frame.HeaderSize), killed: make(chan struct{})}
	if j.proc, err = startCommand(cfg, id, held, stdin, theirs); err != nil {
		stdout.Close()
		return nil, err
	}
	j.reader.Go(j.read)
	return j, nil
}

func startCommand(cfg *Config, id supervisor.Identity, held ipc.Holding, stdin, stdout *os.File) (*reaper.Process, error) {
	pipes, err := cfg.Relay.Open(id.ID) // its stdout is not needed, and ends at once
	if err != nil {
		return nil, err
	}
	defer pipes.CloseChild()
	if cfg.Relay != nil {
		cfg.give(pipes.Stderr)
	}
	p, err := cfg.Reaper.Start(&reaper.Spec{
		Args: cfg.Args,
		Env: append(cfg.identity(id), "POOLINIT_DELIVER="+cfg.Deliver, "POOLINIT_SOURCE="+held.Source,
			"POOLINIT_MESSAGE_ID="+strconv.FormatUint(held.ID, 10), "POOLINIT_ATTEMPT="+strconv.Itoa(held.Attempt)),
		Dir:         cfg.Dir,
		Files:       []uintptr{stdin.Fd(), stdout.Fd(), pipes.Stderr.Fd()},
		NewGroup:    true,
		DeathSignal: syscall.SIGKILL,
		Credential:  cfg.Credential,
	})
	if err == nil {
		cfg.tellStarted(p)
		pipes.SetPID(p.PID())
	}
	return p, err
}

// fileOf returns a file in memory. Unlike a pipe it takes all of a body at once,
// however little of it the command reads.
func fileOf(body []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("message", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate("message", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "message")
	if _, err = f.Write(body); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readablePipe returns a pipe: the end to read from, which can be given a
// deadline, and the blocking end that the command gets.
func readablePipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	err = unix.SetNonblock(fds[0], true)
	r, w = os.NewFile(uintptr(fds[0]), "|0"), os.NewFile(uintptr(fds[1]), "|1")
	if err != nil {
		r.Close()
		w.Close()
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return r, w, nil
}

// read collects what the command prints. One that prints more than a reply may
// be long is ended.
func (j *job) read() {
	const piece = 4 << 10
	for {
		if cap(j.reply)-len(j.reply) < piece {
			j.reply = append(make([]byte, 0, 2*cap(j.reply)+2*piece), j.reply...)
		}
		n, err := j.stdout.Read(j.reply[len(j.reply):cap(j.reply)])
		if j.reply = j.reply[:len(j.reply)+n]; err != nil {
			return
		}
		if len(j.reply)-frame.HeaderSize > j.cfg.Queue.MaxReply() {
			j.tooLong = true
			_ = j.proc.SignalGroup(syscall.SIGKILL) // ended already: fine
			close(j.killed)
			return
		}
	}
}

// wait returns when the command has ended, its group is empty, and what it
// printed has been read. A command that the job has killed is given up after
// stopGrace.
func (j *job) wait() {
	select {
	case <-j.proc.Exited():
	case <-j.killed:
		if !isClosed(j.proc.Exited(), stopGrace) {
			j.survived = true
			j.cfg.Log.Warn().Int("pid", j.proc.PID()).Msg("command survived SIGKILL, going on without it")
			j.reader.Wait()
			j.stdout.Close()
			return
		}
	}
	if !j.isGone(restGrace) {
		j.cfg.Log.Debug().Int("pid", j.proc.PID()).Msg("command left processes behind, stopping them")
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			_ = j.proc.SignalGroup(sig) // gone meanwhile: fine
			_ = j.proc.SignalGroup(syscall.SIGCONT)
			if j.isGone(stopGrace) {
				break
			}
		}
	}
	_ = j.stdout.SetReadDeadline(time.Now().Add(restGrace)) // at its end already: no matter
	j.reader.Wait()
	j.stdout.Close()
}

func (j *job) isGone(within time.Duration) bool { return isClosed(j.proc.Gone(), within) }

// isClosed waits for a channel to be closed, up to a limit.
func isClosed(c <-chan struct{}, within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
		return false
	}
}

// exit is how the command ended.
func (j *job) exit() reaper.Exit {
	if j.survived {
		return reaper.Exit{Signal: syscall.SIGKILL, At: time.Now()}
	}
	return j.proc.Exit()
}

// answer is the frame for the message.
func (j *job) answer(oom bool) []byte {
	exit := j.exit()
	switch {
	case j.tooLong:
		return failure(errors.New("the reply is longer than " + strconv.Itoa(j.cfg.Queue.MaxReply()) + " bytes"))
	case oom:
		return failure(errors.New("command was killed by the OOM killer"))
	case exit.Signal != 0:
		return failure(fmt.Errorf("the command died of %s", unix.SignalName(exit.Signal)))
	case exit.Code != 0:
		return failure(fmt.Errorf("the command exited with code %d", exit.Code))
	}
	frame.PutHeader(j.reply, len(j.reply)-frame.HeaderSize)
	return j.reply
}

// failure is a frame that says that the message failed, and may be tried again.
func failure(why error) []byte {
	answer := frame.Append(nil, []byte(why.Error()))
	frame.MarkFailure(answer)
	return answer
}
