package reaper

import (
	"errors"
	"io/fs"
	"iter"
	"os"
	"strings"
	"syscall"
)

// defaultPath is what execvp(3) uses where PATH is not set.
const defaultPath = "/bin:/usr/bin"

var (
	errDirectory     = deniedError("is a directory")
	errNotExecutable = deniedError("permission denied (is its x bit set?)")
	errNoInterpreter = errors.New("the file exists, but not the interpreter or dynamic loader that it names")
)

// deniedError is a permission error that says what is the matter.
type deniedError string

func (e deniedError) Error() string      { return string(e) }
func (deniedError) Is(target error) bool { return target == fs.ErrPermission }

// notFound is a "does not exist" that says where it was looked for.
type notFound string

func (e notFound) Error() string      { return "no such file " + string(e) }
func (notFound) Is(target error) bool { return target == fs.ErrNotExist }

// candidates yields the paths that a command may stand for, as execvp(3):
// itself if it has a slash, else in each directory of PATH.
func candidates(command, path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if strings.Contains(command, "/") {
			yield(command)
			return
		}
		if command == "" {
			return
		}
		for dir := range strings.SplitSeq(path, ":") {
			if dir == "" {
				dir = "." // as in every shell
			}
			full := dir + "/" + command // not cleaned: what .. means after a symbolic link is the kernel's to say
			if mayExist(full) && !yield(full) {
				return
			}
		}
	}
}

func pathOf(env []string) string {
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			return p
		}
	}
	return defaultPath
}

// mayExist spares a fork for each directory of PATH that does not have it. One
// that may not be searched is not spared: its EACCES decides the exit code.
func mayExist(path string) bool {
	_, err := os.Stat(path)
	return err == nil || errors.Is(err, fs.ErrPermission)
}

func explainDenied(path string) error {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return errDirectory
	}
	return errNotExecutable
}

// ExitCode returns what a shell, and tini, exit with when a command could not
// be started: 127 if there is no such command, 126 if it may not or can not be
// executed.
func ExitCode(err error) int {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoInterpreter) {
		return 127
	}
	return 126
}

// Errno returns the system's error number in err, or 0.
func Errno(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, fs.ErrPermission):
		return syscall.EACCES
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNoInterpreter):
		return syscall.ENOENT
	}
	return 0
}
