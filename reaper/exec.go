package reaper

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exec turns this program into another, looked up as Start does, with the same
// errors. It returns only if that fails.
func Exec(args, env []string) error {
	return try(args, env, func(path string, args []string) error { return syscall.Exec(path, args, env) })
}

// Look returns the error that Start would, as far as it can be told from
// outside: a program that starts only now and then must not be found missing
// only then.
func Look(args, env []string) error {
	return try(args, env, func(path string, _ []string) error {
		fi, err := os.Stat(path)
		switch {
		case err != nil:
			return err
		case fi.IsDir():
			return syscall.EACCES
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

// interpreter returns what a script names after #!, or "".
func interpreter(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "" // may be executed, but not read
	}
	defer f.Close()
	var head [256]byte // as much as the kernel looks at
	n, _ := f.Read(head[:])
	line, _, _ := bytes.Cut(head[:n], []byte("\n"))
	words, ok := bytes.CutPrefix(line, []byte("#!"))
	if fields := bytes.Fields(words); ok && len(fields) > 0 {
		return string(fields[0])
	}
	return ""
}

// try calls run with what a name may mean, like execvp(3), until one is what
// the kernel takes. What exists but cannot be executed is remembered, for the
// error; a file that the kernel does not understand is a script for /bin/sh.
func try(args, env []string, run func(path string, args []string) error) error {
	var denied error
	for path := range candidates(args[0], pathOf(env)) {
		err := run(path, args)
		if errors.Is(err, syscall.ENOEXEC) {
			err = run("/bin/sh", append([]string{"sh", path}, args[1:]...))
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EACCES):
			denied = &fs.PathError{Op: "exec", Path: path, Err: explainDenied(path)}
		case !errors.Is(err, syscall.ENOENT):
			return &fs.PathError{Op: "exec", Path: path, Err: err}
		case mayExist(path) && denied == nil:
			// The file is there, so what is missing is its interpreter.
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
