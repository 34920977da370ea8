package reaper

import (
	"bytes"
	"errors"
	"io/fs"
	"iter"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/entry"
	"github.com/poolinit/poolinit/reaper/spawn"
)

// defaultPath is what execvp(3) uses where PATH is not set.
const defaultPath = "/bin:/usr/bin"

var (
	errNoDirectory   = missingError("no such directory")
	errDirectory     = deniedError("is a directory")
	errNotExecutable = deniedError("permission denied (is its x bit set?)")
	errNoInterpreter = errors.New("the file exists, but not the interpreter or dynamic loader that it names")
)

// deniedError is a permission error with its reason.
type deniedError string

func (e deniedError) Error() string      { return string(e) }
func (deniedError) Is(target error) bool { return target == fs.ErrPermission }

// missingError is a "does not exist" error with its reason.
type missingError string

func (e missingError) Error() string      { return string(e) }
func (missingError) Is(target error) bool { return target == fs.ErrNotExist }

// notFound is a "does not exist" error that says where the search was.
type notFound string

func (e notFound) Error() string      { return "no such file " + string(e) }
func (notFound) Is(target error) bool { return target == fs.ErrNotExist }

// Exec turns this program into another, which is looked up as Start does, with
// the same errors. It gets the signal mask that this program was given. Exec returns
// only if it fails, and then the calling goroutine stays tied to its thread.
func Exec(args, env []string) error {
	runtime.LockOSThread() // the mask that the program gets is the thread's
	entry.RestoreMask()
	return try(args, env, "", func(path string, args []string) error { return syscall.Exec(path, args, env) })
}

// Look returns the error that Start would return, as far as it can be known
// without starting the program. A program that is started only now and then should
// not be found missing only then. dir is as in Spec.
func Look(args, env []string, dir string) error {
	if err := LookDir(dir); err != nil {
		return err
	}
	return try(args, env, dir, func(path string, _ []string) error {
		path = in(dir, path)
		fi, err := os.Stat(path)
		switch {
		case err != nil:
			return err
		case !fi.Mode().IsRegular():
			return syscall.EACCES // the kernel's error; and to open a FIFO would wait for a writer
		}
		if err := unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS); err != nil {
			return err
		}
		if name := interpreter(path); name != "" {
			_, err = os.Stat(name)
		}
		return err
	})
}

// LookDir returns the error that Start would return if a directory, as in Spec,
// cannot be used.
func LookDir(dir string) error {
	if dir == "" {
		return nil
	}
	switch fi, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return &fs.PathError{Op: "chdir", Path: dir, Err: errNoDirectory}
	case err != nil:
		return err
	case !fi.IsDir():
		return &fs.PathError{Op: "chdir", Path: dir, Err: syscall.ENOTDIR}
	}
	return nil
}

// in returns how this program calls a path that is relative to a directory. It is
// not cleaned: the kernel decides what .. means after a symbolic link.
func in(dir, path string) string {
	if dir == "" || strings.HasPrefix(path, "/") {
		return path
	}
	return dir + "/" + path
}

// interpreter returns the program that a script names after #!, or "".
func interpreter(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "" // a file may be executable without being readable
	}
	defer f.Close()
	var head [256]byte // the kernel looks at no more
	n, _ := f.Read(head[:])
	line, _, _ := bytes.Cut(head[:n], []byte("\n"))
	words, ok := bytes.CutPrefix(line, []byte("#!"))
	if fields := bytes.Fields(words); ok && len(fields) > 0 {
		return string(fields[0])
	}
	return ""
}

// try calls run with each path that a name may stand for, like execvp(3), until
// the kernel accepts one. A file that exists but cannot be executed is remembered
// for the error. A file that the kernel does not understand is a script for
// /bin/sh. Relative paths are relative to dir, and so are those that run gets.
func try(args, env []string, dir string, run func(path string, args []string) error) error {
	var denied error
	for path := range candidates(args[0], env, dir) {
		err := run(path, args)
		if err != nil {
			if other := foreign(in(dir, path)); other != "" {
				denied = &fs.PathError{Op: "exec", Path: path, Err: deniedError(other)}
				continue
			}
		}
		if errors.Is(err, syscall.ENOEXEC) {
			err = run("/bin/sh", append([]string{"sh", path}, args[1:]...))
		}
		var refused *spawn.Error
		switch {
		case err == nil:
			return nil
		case errors.As(err, &refused):
			return &fs.PathError{Op: "start", Path: path, Err: err}
		case errors.Is(err, syscall.EACCES):
			denied = &fs.PathError{Op: "exec", Path: path, Err: whyDenied(dir, path)}
		case !errors.Is(err, syscall.ENOENT):
			return &fs.PathError{Op: "exec", Path: path, Err: err}
		case mayExist(in(dir, path)) && denied == nil:
			// The file is there, so its interpreter is what is missing.
			denied = &fs.PathError{Op: "exec", Path: path, Err: errNoInterpreter}
		}
	}
	if denied != nil {
		return denied
	}
	where := "in $PATH"
	if strings.Contains(args[0], "/") {
		where = "there"
	}
	return &fs.PathError{Op: "exec", Path: args[0], Err: notFound(where)}
}

// whyDenied returns why a file may not be executed.
func whyDenied(dir, path string) error {
	path = in(dir, path)
	fi, err := os.Stat(path)
	switch {
	case err == nil && fi.IsDir():
		return errDirectory
	case err == nil && dir != "" && unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS) == nil:
		return deniedError("permission denied (may its user enter " + dir + "?)") // this program's user may execute it
	}
	return errNotExecutable
}

// candidates yields the paths that a command may stand for, as execvp(3): itself
// if it has a slash, otherwise a file in each directory of PATH.
func candidates(command string, env []string, dir string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if strings.Contains(command, "/") {
			yield(command)
			return
		}
		if command == "" {
			return
		}
		for part := range strings.SplitSeq(pathOf(env), ":") {
			if part == "" {
				part = "." // as in every shell
			}
			full := part + "/" + command
			if mayExist(in(dir, full)) && !yield(full) {
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

// mayExist saves a fork for each directory of PATH that does not have the
// program. A directory that may not be searched counts as one that may have it,
// because its EACCES decides the exit code.
func mayExist(path string) bool {
	_, err := os.Stat(path)
	return err == nil || errors.Is(err, fs.ErrPermission)
}

// ExitCode returns the exit code of a shell, and of tini, for a command that
// could not be started: 127 if there is no such command, 126 if it may not or
// cannot be executed.
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
