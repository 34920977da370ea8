package tini

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/reaper/signals"
)

// The exit codes of tini that are not its child's.
const (
	exitInitFailed    = 1 // a wrong command line, or the child could not be started for some other reason
	exitNotExecutable = 126
	exitNotFound      = 127
)

// notForwarded is the signals that are not forwarded to the child. tini does not forward
// those that mean that a program is broken, nor TTIN and TTOU, which a terminal sends to
// the right process itself. CHLD is the reaper's. URG is the Go runtime's, which sends it
// to its own threads all the time.
var notForwarded = signals.SetOf(
	syscall.SIGFPE, syscall.SIGILL, syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGABRT, syscall.SIGTRAP, syscall.SIGSYS,
	syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCHLD, syscall.SIGURG)

// About is the text for --version, -l and -h.
type About struct {
	Version, License string
}

// Main does the work of tini: it starts one child, forwards every signal to it, and
// returns its exit code. args are the arguments after the name of the program, or of the
// subcommand.
func Main(args []string, about About) int {
	o, err := parse(args, os.LookupEnv)
	say := &messenger{name: nameOf(os.Args[0]), verbosity: o.verbosity}
	if err != nil {
		return o.refuse(say, err, about)
	}
	return o.run(say)
}

// Arguments returns the arguments for Main, if a command line asks for an init.
func Arguments(args []string) (rest []string, ok bool) {
	switch {
	case len(args) == 0:
		return nil, false
	case isName(path.Base(args[0])):
		return args[1:], true
	case len(args) > 1 && args[1] == "init":
		return args[2:], true
	}
	return nil, false
}

func isName(base string) bool {
	return base == "tini" || base == "tini-static" || base == "docker-init"
}

// nameOf returns the name of this program in messages and in the usage text.
func nameOf(argv0 string) string {
	if base := path.Base(argv0); isName(base) {
		return base
	}
	return "poolinit init"
}

func (o *options) run(say *messenger) int {
	if err := o.becomeInit(say); err != nil {
		say.fatal("%v", err)
		return exitInitFailed
	}
	r := reaper.NewPlain(o.onOrphan(say))
	defer r.Close()
	terminal := reaper.OpenTerminal()
	defer terminal.Close()

	// Inherited descriptors are meant for the child, as with tini: none is sealed.
	child, err := r.Start(&reaper.Spec{
		Args: o.command, Env: os.Environ(), Files: []uintptr{0, 1, 2}, NewGroup: true, Terminal: terminal, KeepSignals: true,
	})
	if err != nil {
		say.fatal("exec %s failed: %s", o.command[0], describeExec(err))
		return execExitCode(err)
	}
	say.info("Spawned child process '%s' with pid '%d'", o.command[0], child.PID())
	return o.superviseChild(say, child)
}

// restDelay leaves the CPUs to the child while it starts, and to the end of a child that
// does not live longer. Stop and reload signals have been caught since before its start.
const restDelay = time.Millisecond

// superviseChild forwards signals until the child ends, and returns the exit code. The
// mailbox has been open since the program began: signals that arrived before the child
// was started are forwarded first.
func (o *options) superviseChild(say *messenger, child *reaper.Process) int {
	mailbox := signals.Early()
	time.AfterFunc(restDelay, mailbox.CatchRest) // ends by itself in 2 ms
	mailbox.Each(child.Exited(), func(sig syscall.Signal) { o.forward(say, child, sig) })

	exit := child.Exit()
	if exit.Signal != 0 {
		say.info("Main child exited with signal (with signal '%s')", signals.Name(exit.Signal))
	} else {
		say.info("Main child exited normally (with status '%d')", exit.Code)
	}
	code := exit.Status() & 0xff
	if o.success[code] {
		return 0
	}
	return code
}

func (o *options) forward(say *messenger, child *reaper.Process, sig syscall.Signal) {
	if notForwarded[sig] {
		return
	}
	say.debug("Passing signal: '%s'", signals.Name(sig))
	send := child.Signal
	if o.group {
		send = child.SignalGroup
	}
	switch err := send(sig); {
	case errors.Is(err, os.ErrProcessDone), err == syscall.ESRCH:
		say.warn("Child was dead when forwarding signal")
	case err != nil:
		say.warn("Cannot forward signal %s: %v", signals.Name(sig), err) // tini exits here, and so ends the child
	}
}

func (o *options) onOrphan(say *messenger) func(int, reaper.Exit) {
	return func(pid int, _ reaper.Exit) {
		say.debug("Reaped child with pid: '%d'", pid)
		if o.warnReap {
			say.warn("Reaped zombie process with pid=%d", pid)
		}
	}
}

// becomeInit asks the kernel for the parent-death signal and for orphans, as the options
// say, and warns if orphans will not come here.
func (o *options) becomeInit(say *messenger) error {
	if o.parentDeath != 0 {
		if err := signalOnParentDeath(o.parentDeath); err != nil {
			return err
		}
	}
	if o.subreaper {
		if err := reaper.BecomeSubreaper(); err != nil {
			return err
		}
		say.trace("Registered as child subreaper")
	}
	if os.Getpid() != 1 && !reaper.IsSubreaper() {
		say.warn(noReaperWarning)
	}
	return nil
}

const noReaperWarning = "This is not PID 1, and is not registered as a child subreaper.\n" +
	"Zombie processes will not be re-parented to it, so zombie reaping won't work.\n" +
	"To fix the problem, use the -s option or set the environment variable TINI_SUBREAPER, or run it as PID 1."

// signalOnParentDeath makes the kernel send this process a signal when its parent dies.
// The request belongs to the thread that made it, so that thread must not end before the
// process does: the lock is never released, and the goroutine ends by os.Exit.
func signalOnParentDeath(sig syscall.Signal) error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(sig), 0, 0, 0); err != nil {
		//lint:ignore ST1005 tini's words
		return errors.New("Failed to set up parent death signal")
	}
	return nil
}

// execExitCode returns tini's exit code for a program that could not be started. Unlike a
// shell's it is 1 if the program is neither absent nor forbidden.
func execExitCode(err error) int {
	switch reaper.Errno(err) {
	case syscall.ENOENT:
		return exitNotFound
	case syscall.EACCES:
		return exitNotExecutable
	}
	return exitInitFailed
}

// describeExec returns the system's words for an error, as tini does, and in brackets
// what they leave out.
func describeExec(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	errno := reaper.Errno(err)
	if errno == 0 || err == errno {
		return capitalize(err.Error())
	}
	if strings.HasPrefix(err.Error(), errno.Error()) {
		return capitalize(err.Error())
	}
	return capitalize(errno.Error()) + " (" + err.Error() + ")"
}
