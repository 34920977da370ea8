// Package cli is what a person types and reads: the subcommands, their flags
// and environment variables, their help, and the tables that they print.
//
// Main looks up the subcommand in a table. "poolinit run", which is the default,
// reads its flags into a daemon.Config and hands it to package daemon (run.go).
// "poolinit init" is tini, of package reaper/tini. The others are clients:
// status, reload, stop, scale, pause, resume, queue and health ask a running pool
// over its control socket (control.go, status.go, queue.go), notify tells a pool how a worker is, and send is in a
// package of its own. Flags and their errors are package cli/flags.
package cli

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/cli/send"
	"github.com/poolinit/poolinit/reaper/entry"
	"github.com/poolinit/poolinit/reaper/tini"
)

// exitFailed is the exit code of the commands that ask a running pool, and of
// notify, if there is no pool, if the pool could not do what it was asked, or if it
// is not healthy.
const exitFailed = 1

// An About is what this program is.
type About struct {
	Version string // of a release; "": the build knows it
	License string
}

// A command is a subcommand.
type command struct {
	name, args, summary string
	run                 func(args []string) int // gets what follows its name, and returns the exit code
	signals             bool                    // it handles signals; the others are ended by them
}

func commands(about About) []command {
	return []command{
		{"run", "[flags] [--] COMMAND [ARG...]", "supervise a pool of COMMAND (the default)", about.run, true},
		{"init", "[flags] [--] COMMAND [ARG...]", "what tini does, with tini's flags", about.tini, true},
		{"send", "[flags] ADDRESS [FILE...]", "send messages to a pool and print the replies", send.Main, false},
		{"status", "[--json] [--watch] [--pid N]", "show the running pool as a table", statusCommand.main, false},
		{"reload", "[--wait] [--pid N]", "replace the running pool's workers one by one", reloadCommand.main, false},
		{"stop", "[--wait] [--pid N]", "stop the running pool", stopCommand.main, false},
		{"scale", "N [--pid N]", "change how many workers the running pool keeps", scaleCommand.main, false},
		{"pause", "[--pid N]", "hand no messages to workers, until resume", pauseCommand.main, false},
		{"resume", "[--pid N]", "hand messages to workers again", resumeCommand.main, false},
		{"queue", "[list | drop ID...] [--pid N]", "list messages that wait, or give some up", queueCommand.main, false},
		{"health", "[--ready] [--pid N]", "check the running pool, for HEALTHCHECK", healthCommand.main, false},
		{"notify", "VARIABLE=VALUE...", "report this worker's state: READY=1 (sd_notify)", notifyPool, false},
		{"version", "", "print the version, as --version does", about.printVersion, false},
	}
}

// Main runs the subcommand that a command line asks for, and returns the exit
// code. args begins with the name of the program.
func Main(args []string, about About) int {
	if rest, ok := tini.Arguments(args); ok {
		return about.tini(rest)
	}
	if len(args) < 2 {
		return about.run(nil)
	}
	switch word := args[1]; word {
	case "help":
		return printHelp()
	case "--version":
		return about.printVersion(args[2:])
	default:
		for _, c := range commands(about) {
			if word == c.name {
				return c.main(args[2:])
			}
		}
	}
	return about.run(args[1:])
}

func (c command) main(args []string) int {
	if !c.signals {
		signal.Reset() // they are caught early, for a pool
		entry.Release()
	}
	return c.run(args)
}

// tini is "poolinit init". As a rule it is done before main begins: see
// reaper/tini/early.go.
func (a About) tini(args []string) int {
	return tini.Main(args, tini.About{Version: a.version(), License: a.License})
}

func (a About) printVersion(args []string) int {
	if len(args) > 0 && (args[0] == "--help" || args[0] == "-h") {
		return printHelp()
	}
	if len(args) > 0 {
		return flags.UsageError("", fmt.Errorf("version takes no arguments, but got %q", args[0]))
	}
	fmt.Println("poolinit " + a.version())
	return 0
}

// version returns the version, and the commit if the build knows it.
func (a About) version() string {
	v := a.Version
	if info, ok := debug.ReadBuildInfo(); ok && v == "" {
		v = info.Main.Version
	}
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	if commit := revision(); !strings.Contains(v, commit) { // Go's name for a build between two tags has it already
		v += " " + commit
	}
	return v
}

// revision returns the commit, or "" if the build does not know it.
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

func printHelp() int {
	fmt.Fprint(os.Stdout, usage())
	return 0
}

const usageHead = `poolinit keeps a pool of worker processes alive, as PID 1 of a container.

Usage:
`

// usage returns what --help prints. The README has the same text, which a test
// compares.
func usage() string { return runFlags(new(options)).Help() }

// usageAround returns the help, with the usages of run's flags in it.
func usageAround(flagUsages string) string {
	var b strings.Builder
	b.WriteString(usageHead)
	for _, c := range commands(About{}) {
		if c.name == "run" {
			c.name = "[run]" // it may be left out
		}
		fmt.Fprintf(&b, "  poolinit %-7s %-29s %s\n", c.name, c.args, c.summary)
	}
	b.WriteString("\nFlags of run:\n" + flagUsages + usageTail)
	return b.String()
}

const usageTail = `
Every flag of run has an environment variable: POOLINIT_STOP_TIMEOUT=8s is
--stop-timeout 8s. The flag wins. Durations are 500ms, 8s, 1m30s; sizes 64MiB or 64M.

Signals: TERM, INT, QUIT and RTMIN+3 stop the pool, a second one kills it; USR1 and
HUP reload it; all others are forwarded to the workers.

Exit codes: 0 stopped cleanly; 2 usage error; 126 or 127 cannot run COMMAND; 137 a
worker had to be killed; with --give-up or --restart the code of a failed worker.
`
