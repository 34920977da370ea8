// Poolinit is a container's ENTRYPOINT: it runs as PID 1, reaps zombies, and
// keeps a pool of worker processes alive.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/poolinit/poolinit/reaper/tini"
	"github.com/poolinit/poolinit/supervisor/launch"
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
		{"status", "[--json] [--watch] [--pid N]", "the running pool, as a table", statusCommand.main},
		{"reload", "[--wait] [--pid N]", "replace the running pool's workers one by one", reloadCommand.main},
		{"stop", "[--wait] [--pid N]", "stop the running pool", stopCommand.main},
		{"health", "[--ready] [--pid N]", "whether the running pool is well, for HEALTHCHECK", healthCommand.main},
		{"notify", "VARIABLE=VALUE...", "tell the pool how this worker is: READY=1 (sd_notify)", cmdNotify},
		{"version", "", "print the version; so does --version", cmdVersion},
	}
}

func dispatch(args []string) int {
	if launch.IsShareExec(args) { // first: a worker waits for it
		return launch.ShareExec(args)
	}
	if rest, ok := tini.Arguments(args); ok {
		return cmdInit(rest)
	}
	if len(args) > 1 {
		switch word := args[1]; word {
		case "help":
			return printHelp()
		case "--version":
			return cmdVersion(args[2:])
		default:
			for _, c := range commands() {
				if word == c.name {
					return c.run(args[2:])
				}
			}
		}
	}
	return cmdRun(args[1:])
}

// version is set at link time (-ldflags "-X main.version=v1.2.3").
var version = ""

// buildVersion returns the version, and the commit where the build knows it.
func buildVersion() string {
	v := version
	if info, ok := debug.ReadBuildInfo(); ok && v == "" {
		v = info.Main.Version
	}
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	if commit := revision(); !strings.Contains(v, commit) { // Go names a build between two tags by it already
		v += " " + commit
	}
	return v
}

// revision returns the commit, where the build knows it.
func revision() string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return ""
}

func cmdVersion(args []string) int {
	if len(args) > 0 && (args[0] == "--help" || args[0] == "-h") {
		return printHelp()
	}
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

// cannotStart says what is in the way, where the command line is well formed.
func cannotStart(err error) int {
	fmt.Fprintln(os.Stderr, "poolinit:", err)
	return exitUsage
}
