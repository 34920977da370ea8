// Poolinit is a container's ENTRYPOINT: it runs as PID 1, reaps zombies, and
// keeps a pool of worker processes alive.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/poolinit/poolinit/launch"
)

// exitUsage is the exit code for what the user could have written right.
const exitUsage = 2

func main() {
	os.Exit(dispatch(os.Args))
}

// A command is a subcommand: it gets what follows its name and returns the
// exit code.
type command struct {
	name, args, summary string
	run                 func(args []string) int
}

func commands() []command {
	return []command{
		{"run", "[flags] [--] COMMAND [ARG...]", "supervise a pool of COMMAND (the default)", cmdRun},
		{"init", "[flags] [--] COMMAND [ARG...]", "tini's job and flags, nothing else", cmdInit},
		{"send", "[flags] ADDRESS [FILE...]", "send messages to a pool, print the replies", cmdSend},
		{"version", "", "print the version", cmdVersion},
	}
}

func dispatch(args []string) int {
	if launch.IsShareExec(args) { // first: a worker waits for it
		return launch.ShareExec(args)
	}
	switch filepath.Base(args[0]) {
	case "tini", "docker-init", "tini-static":
		return cmdInit(args[1:])
	}
	if len(args) > 1 {
		for _, c := range commands() {
			if args[1] == c.name {
				return c.run(args[2:])
			}
		}
	}
	return cmdRun(args[1:])
}

// version is set at link time (-ldflags "-X main.version=v1.2.3").
var version = ""

// buildVersion returns the version, and the commit where the build knows it.
func buildVersion() string {
	v, commit := version, ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				commit = " " + s.Value[:12]
			}
		}
	}
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	return v + commit
}

func cmdVersion(args []string) int {
	if len(args) > 0 {
		return usageError(os.Stderr, "version takes no arguments, but got %q", args[0])
	}
	fmt.Println("poolinit " + buildVersion())
	return 0
}

// usageError says what is wrong with the command line.
func usageError(w io.Writer, format string, args ...any) int {
	fmt.Fprintf(w, "poolinit: "+format+"\n", args...)
	fmt.Fprintln(w, "Try 'poolinit --help'.")
	return exitUsage
}
