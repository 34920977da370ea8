// Package tini is poolinit init: tini's job, its flags, its exit codes and its
// words.
//
// It imports nothing that takes time, for it runs before the packages that do:
// see early.go.
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

// notForwarded is what the child never gets from here. Those that say the
// program itself is broken, TTIN and TTOU are tini's choice (a terminal sends
// these to whom it means). CHLD is the reaper's. URG is the Go runtime's: it
// sends it to its own threads all the time.
var notForwarded = signals.SetOf(
	syscall.SIGFPE, syscall.SIGILL, syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGABRT, syscall.SIGTRAP, syscall.SIGSYS,
	syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCHLD, syscall.SIGURG)

// About is what --version, -l and -h show.
type About struct {
	Version, License string
}

// Main does what tini does: one child, every signal passed on, its exit code for
// ours, which is what it returns. args follow the name of the program, or of
// the subcommand. It is not allowed to take time: no logger, no flag library.
func Main(args []string, about About) int {
	o, err := parse(args, os.LookupEnv)
	say := &messenger{name: nameOf(os.Args[0]), verbosity: o.verbosity}
	if err != nil {
		return o.refuse(say, err, about)
	}
	return o.run(say)
}

// Arguments returns what Main is to get of a command line, if that asks for it.
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

// nameOf is what messages and the usage text call this program.
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

	// Inherited descriptors belong to the child, as with tini: none is sealed.
	child, err := r.Start(&reaper.Spec{
		Args: o.command, Env: os.Environ(), Files: []uintptr{0, 1, 2}, NewGroup: true, Terminal: terminal,
	})
	if err != nil {
		say.fatal("exec %s failed: %s", o.command[0], describeExec(err))
		return execExitCode(err)
	}
	say.info("Spawned child process '%s' with pid '%d'", o.command[0], child.PID())
	return o.mind(say, child)
}

// restDelay leaves the CPUs to the child while it begins, and to the end of one that lives no
// longer. Stop and reload signals have been caught since before it was started.
const restDelay = time.Millisecond

// mind passes signals on until the child ends, and returns what to exit with.
// The mailbox has been open since the program began: what came before there
// was a child is the first that the child gets.
func (o *options) mind(say *messenger, child *reaper.Process) int {
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
		say.warn("Cannot forward signal %s: %v", signals.Name(sig), err) // tini gives up here, and takes the child with it
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

// becomeInit asks the kernel for what the options want, and warns if orphans
// will go elsewhere.
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

// signalOnParentDeath has the kernel send this process a signal when its
// parent dies. The kernel keeps that with the thread that asked, so this one
// must not end before the process does: the lock is never released, and the
// goroutine ends by os.Exit.
func signalOnParentDeath(sig syscall.Signal) error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(sig), 0, 0, 0); err != nil {
		//lint:ignore ST1005 tini's words
		return errors.New("Failed to set up parent death signal")
	}
	return nil
}

// execExitCode is tini's: unlike a shell it has 1 for what is neither absent nor forbidden.
func execExitCode(err error) int {
	switch reaper.Errno(err) {
	case syscall.ENOENT:
		return exitNotFound
	case syscall.EACCES:
		return exitNotExecutable
	}
	return exitInitFailed
}

// describeExec has the system's words, as tini, and in brackets what they leave out.
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
