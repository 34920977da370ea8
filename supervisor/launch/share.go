package launch

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc/stream"
	"github.com/poolinit/poolinit/reaper"
)

// firstFD is where a worker finds its first descriptor beside 0, 1 and 2.
const firstFD = 3

// ownProgram is this program, also if its file has been replaced since.
const ownProgram = "/proc/self/exe"

// shareWord is the hidden subcommand of a process on its way to become a worker
// with shared sockets.
const shareWord = "share-exec"

// shares are the open sockets that all workers get.
type shares []*stream.Share

// environ says by systemd's protocol which sockets a worker has. What is missing
// is LISTEN_PID, which only the process itself knows.
func (list shares) environ() []string {
	if len(list) == 0 {
		return nil
	}
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = s.Name
	}
	return []string{"LISTEN_FDS=" + strconv.Itoa(len(names)), "LISTEN_FDNAMES=" + strings.Join(names, ":")}
}

// start starts a worker's process. With shared sockets it is this program again,
// which sets LISTEN_PID and becomes the worker; start waits until it has, so that
// an exec that fails is the same error as without, and no signal gets lost.
func (list shares) start(r *reaper.Reaper, spec *reaper.Spec) (*reaper.Process, error) {
	if len(list) == 0 {
		return r.Start(spec)
	}
	report, theirs, err := readablePipe()
	if err != nil {
		return nil, err
	}
	defer report.Close()
	again := *spec
	again.Args = append([]string{ownProgram, shareWord, strconv.Itoa(len(spec.Files))}, spec.Args...)
	again.Files = append(spec.Files[:len(spec.Files):len(spec.Files)], theirs.Fd())
	p, err := r.Start(&again)
	theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("running poolinit itself, which --share needs: %w", err)
	}
	text, err := io.ReadAll(report) // ends when exec closes the other end
	if err == nil && len(text) == 0 {
		return p, nil
	}
	<-p.Exited()
	return nil, parseReport(text)
}

// A reported error is one of another process: the text, and the number that
// decides about the exit code.
type reported struct {
	text  string
	errno syscall.Errno
}

func (e reported) Error() string { return e.text }
func (e reported) Unwrap() error { return e.errno }

func parseReport(text []byte) error {
	number, message, _ := strings.Cut(string(text), " ")
	errno, _ := strconv.Atoi(number)
	return reported{message, syscall.Errno(errno)}
}

// IsShareExec reports whether a command line is that of ShareExec.
func IsShareExec(args []string) bool {
	return len(args) > 3 && args[0] == ownProgram && args[1] == shareWord
}

// ShareExec makes this process the worker. It returns only if that fails: the
// exit code, once it has been reported.
func ShareExec(args []string) int {
	report, err := strconv.Atoi(args[2])
	if err != nil {
		return 2
	}
	unix.CloseOnExec(report)
	// The death signal belongs to the thread, and the one that calls exec is the one that stays.
	runtime.LockOSThread()
	if reaper.Refused("prctl") == nil { // otherwise the pool has said that it does without
		err = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0)
	}
	if err == nil {
		env := append(os.Environ(), "LISTEN_PID="+strconv.Itoa(os.Getpid()))
		err = reaper.Exec(args[3:], env)
	}
	_, _ = unix.Write(report, fmt.Appendf(nil, "%d %v", int(reaper.Errno(err)), err)) // without a reader the report is lost
	return reaper.ExitCode(err)
}
