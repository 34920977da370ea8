package main

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/launch"
	"github.com/poolinit/poolinit/supervisor/output"
)

// maxWorkers is far above what a machine can run, and far below what a typing
// error would make it try.
const maxWorkers = 65536

type readiness string
type reloadOrder string
type delivery string

// options are run's flags, parsed.
type options struct {
	workers         int // 0: auto
	restart         supervisor.Restart
	restartDelay    time.Duration
	restartDelayMax time.Duration
	healthyAfter    time.Duration
	giveUp          int
	stopSignal      syscall.Signal
	stopTimeout     time.Duration
	drainDelay      time.Duration
	runAtExit       bool
	ready           readiness
	minReady        time.Duration
	readyTimeout    time.Duration
	watchdog        time.Duration
	reloadOrder     reloadOrder
	maxLifetime     time.Duration
	maxMemory       uint64
	listen          []*ipc.URL
	share           []*ipc.Share
	deliver         delivery
	window          int // 0: auto
	queueMessages   int
	queueBytes      uint64
	maxMessage      uint64
	maxMessages     int
	messageTimeout  time.Duration
	timeoutSignal   syscall.Signal
	attempts        int
	spool           string // "": none
	http            string // "": nothing is served
	user            credential
	output          output.Mode
	logLevel        string
	logFormat       string

	help    bool
	command []string
}

// runFlags declares run's flags. The order is that of --help and the README.
func runFlags(o *options) *pflag.FlagSet {
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	fs.SetInterspersed(false) // what follows COMMAND is its own
	fs.SortFlags = false
	fs.SetOutput(io.Discard) // parse reports itself
	fs.Usage = func() {}
	var (
		any      = atLeast(0)
		positive = atLeast(time.Millisecond)
	)
	add(fs, &o.workers, parseWorkers, "workers", "n", "1", "`count`", "how many workers; auto: as many as the CPUs that the cgroup grants")
	add(fs, &o.restart, oneOf(supervisor.RestartAlways, supervisor.RestartOnFailure, supervisor.RestartNever),
		"restart", "", "always", "`when`", "when to replace a worker that ended: always, on-failure or never")
	add(fs, &o.restartDelay, positive, "restart-delay", "", "100ms", "`time`", "wait before a failed worker's replacement: doubled each time, +-20 %;\nnone after a healthy run")
	add(fs, &o.restartDelayMax, positive, "restart-delay-max", "", "30s", "`time`", "longest such wait")
	add(fs, &o.healthyAfter, any, "healthy-after", "", "10s", "`time`", "a worker that lived this long has run healthily: its backoff starts over")
	add(fs, &o.giveUp, between(0, 1_000_000), "give-up", "", "10", "`count`", "stop when every worker has failed so many times in a row; 0: never")
	add(fs, &o.stopSignal, parseSignal, "stop-signal", "", "TERM", "`signal`", "what a worker is sent to stop it")
	add(fs, &o.stopTimeout, positive, "stop-timeout", "", "8s", "`time`", "from the stop request to SIGKILL, drain included")
	add(fs, &o.drainDelay, any, "drain-delay", "", "0s", "`time`", "after a stop request: not ready any more, but still serving, this long")
	add(fs, &o.runAtExit, parseBool, "run-at-exit", "", "false", "bool", "when no worker is left, run COMMAND once more, with POOLINIT_EVENT=shutdown")
	fs.Lookup("run-at-exit").NoOptDefVal = "true"
	add(fs, &o.ready, oneOf[readiness]("started", "notify"), "ready", "", "started", "`how`", "when a worker counts as ready: started, or notify (sd_notify READY=1)")
	add(fs, &o.minReady, any, "min-ready", "", "0s", "`time`", "a worker must stay up this long before it counts as ready")
	add(fs, &o.readyTimeout, positive, "ready-timeout", "", "30s", "`time`", "a worker that is not ready by then has failed to start")
	add(fs, &o.watchdog, any, "watchdog", "", "0s", "`time`", "a worker that sends no WATCHDOG=1 (sd_notify) for so long hangs:\nSIGABRT, SIGKILL 1 s later; 0s: off")
	add(fs, &o.reloadOrder, oneOf[reloadOrder]("stop-first", "start-first"), "reload-order", "", "stop-first", "`order`", "stop-first, or start-first: the new worker is ready before the old one is\nasked to stop")
	add(fs, &o.maxMessages, between(0, 1<<40), "max-messages", "", "0", "`count`", "replace a worker after so many messages, +-10 %; 0: off")
	add(fs, &o.maxLifetime, any, "max-lifetime", "", "0s", "`time`", "replace a worker after so long, +-10 %; 0s: off")
	add(fs, &o.maxMemory, parseSize, "max-memory", "", "0", "`size`", "replace a worker above so much RSS, +-10 %; 0: off")
	add(fs, &o.user, parseUser, "user", "", "", "`user`", "run workers as name, uid or uid:gid; poolinit itself does not change")
	add(fs, &o.output, parseOutput, "output", "", "inherit", "`mode`", "workers' stdout and stderr: inherit, prefix ([worker 3] line) or json")
	list(fs, &o.listen, ipc.ParseURL, "listen", "`URL`", "take messages from tcp://HOST:PORT, unix:///PATH or sysv://KEY; repeatable")
	list(fs, &o.share, ipc.ParseShare, "share", "`URL`", "open tcp://HOST:PORT or unix:///PATH once, for every worker to accept from\n(systemd's LISTEN_FDS); repeatable")
	add(fs, &o.deliver, oneOf[delivery]("frames", "lines", launch.DeliverExec), "deliver", "", "frames", "`how`", "how workers get messages: on fd 3 as frames (4-byte length and body) or lines;\nexec: COMMAND runs once a message, from stdin to stdout")
	add(fs, &o.window, parseWindow, "window", "", "auto", "`count`", "messages on the way to one worker at a time, or auto: about 1 ms of work")
	add(fs, &o.queueMessages, between(1, 1<<30), "queue-messages", "", "1024", "`count`", "messages that wait in memory; then senders have to wait")
	add(fs, &o.queueBytes, atLeastSize(1<<10), "queue-bytes", "", "64MiB", "`size`", "bytes of messages that wait in memory")
	add(fs, &o.maxMessage, atLeastSize(1), "max-message", "", "2MiB", "`size`", "longer messages are refused")
	add(fs, &o.messageTimeout, any, "message-timeout", "", "0s", "`time`", "a worker that holds one message for longer gets --timeout-signal; 0s: off")
	add(fs, &o.timeoutSignal, parseSignal, "timeout-signal", "", "KILL", "`signal`", "QUIT or ABRT make many runtimes print a stack; SIGKILL follows 1 s later")
	add(fs, &o.attempts, between(1, 1<<20), "attempts", "", "3", "`count`", "deliveries of one message before it is given up; 1: at most once")
	add(fs, &o.spool, parseDirectory, "spool", "", "", "`directory`", "keep given-up messages there, and undelivered ones until the next start")
	add(fs, &o.http, parseAddress, "http", "", "", "`address`", "serve metrics, health and status by HTTP, at :9090 for one")
	add(fs, &o.logLevel, oneOf("debug", "info", "warn", "error"), "log-level", "", "info", "`level`", "debug, info, warn or error")
	add(fs, &o.logFormat, oneOf("auto", "text", "json"), "log-format", "", "auto", "`format`", "text, json, or auto: text on a terminal, else json; all logs go to stderr")
	fs.BoolFuncP("help", "h", "print this", func(string) error { o.help = true; return nil })
	return fs
}

// add declares one flag. Its default goes through its parser, like any value.
func add[T any](fs *pflag.FlagSet, to *T, parse func(string) (T, error), name, short, def, kind, usage string) {
	v := &value[T]{to: to, parse: parse, kind: strings.Trim(kind, "`")}
	if err := v.Set(def); err != nil {
		panic("default of --" + name + ": " + err.Error()) // a test runs this for every flag
	}
	fs.VarP(v, name, short, usage)
}

// list declares a flag that may be given several times, or as a list with commas
// in its variable.
func list[T any](fs *pflag.FlagSet, to *[]T, parse func(string) (T, error), name, kind, usage string) {
	fs.VarP(&listValue[T]{to: to, parse: parse, kind: strings.Trim(kind, "`")}, name, "", usage)
}

// parseRun reads run's command line and environment. The error is for the
// user; warnings are about variables that mean nothing.
func parseRun(args, environ []string) (o *options, warnings []string, err error) {
	o = new(options)
	fs := runFlags(o)
	if err := fs.Parse(args); err != nil {
		return nil, nil, explain(fs, err)
	}
	if o.help {
		return o, nil, nil
	}
	if warnings, err = fromEnviron(fs, environ); err != nil {
		return nil, nil, err
	}
	if o.command = fs.Args(); len(o.command) == 0 {
		return nil, nil, errors.New("there is no COMMAND to run, as in: poolinit -n 4 -- php worker.php")
	}
	if o.command[0] == "" {
		return nil, nil, errors.New(`COMMAND is "", which is no program`)
	}
	if near := mistyped(o.command, environ); near != "" && fs.ArgsLenAtDash() < 0 {
		return nil, nil, fmt.Errorf("there is no command %s in $PATH; did you mean poolinit %s?", o.command[0], near)
	}
	return o, warnings, o.check()
}

// mistyped returns the subcommand that somebody may have meant by a COMMAND that is not
// there, or "". In a container that listens already, such a pool would fail for another
// reason first.
func mistyped(command, environ []string) string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	near := nearest(command[0], names)
	if near == "" || near == command[0] && near == "run" || strings.Contains(command[0], "/") || !errors.Is(reaper.Look(command, environ), iofs.ErrNotExist) {
		return ""
	}
	return near
}

// explain turns pflag's errors into ours: the flag, the value, what is allowed.
func explain(fs *pflag.FlagSet, err error) error {
	var (
		invalid  *pflag.InvalidValueError
		unknown  *pflag.NotExistError
		required *pflag.ValueRequiredError
	)
	switch {
	case errors.As(err, &invalid):
		return badValue("--"+invalid.GetFlag().Name, invalid.GetValue(), invalid.Unwrap())
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		dashes := "--"
		if short := unknown.GetSpecifiedShortnames(); short != "" {
			dashes = "-"
			if len(short) > 1 { // -workers 4, as Go's own programs have it
				name, _, _ = strings.Cut(short, "=")
			}
		}
		return fmt.Errorf("there is no flag %s%s%s", dashes, name, didYouMean(nearestFlag(fs, name), "--"))
	case errors.As(err, &required):
		return fmt.Errorf("--%s needs a value", required.GetFlag().Name)
	}
	return err
}

func badValue(what, got string, allowed error) error {
	return fmt.Errorf("%s: %q is not allowed: %w", what, got, allowed)
}

// check holds flags against each other.
func (o *options) check() error {
	switch {
	case o.stopTimeout <= o.drainDelay:
		return fmt.Errorf("--stop-timeout %s must be longer than --drain-delay %s, which is part of it", o.stopTimeout, o.drainDelay)
	case o.restartDelayMax < o.restartDelay:
		return fmt.Errorf("--restart-delay-max %s must not be shorter than --restart-delay %s", o.restartDelayMax, o.restartDelay)
	case o.deliver == "lines" && len(o.listen) == 0:
		return errors.New("--deliver lines needs a --listen: without messages there would be no lines")
	case o.readyTimeout <= o.minReady:
		return fmt.Errorf("--ready-timeout %s must be longer than --min-ready %s, which is part of it", o.readyTimeout, o.minReady)
	}
	if err := o.checkExec(); err != nil {
		return err
	}
	return o.user.allowed()
}

// checkExec refuses what has no meaning for a command that runs once a message.
func (o *options) checkExec() error {
	switch {
	case !o.runsPerMessage():
		return nil
	case len(o.listen) == 0:
		return errors.New("--deliver exec needs a --listen: without messages nothing would ever run")
	case o.ready != "started":
		return errors.New("--deliver exec with --ready notify: a command that runs for one message has nothing to be ready for")
	case o.watchdog > 0:
		return errors.New("--deliver exec with --watchdog: what limits a command that runs for one message is --message-timeout")
	case o.window > 1:
		return fmt.Errorf("--deliver exec with --window %d: a worker runs one command at a time, --workers is how many", o.window)
	case len(o.share) > 0:
		return errors.New("--deliver exec with --share: shared sockets are for workers that stay")
	}
	return nil
}

// runsPerMessage reports whether COMMAND is started for each message.
func (o *options) runsPerMessage() bool { return o.deliver == launch.DeliverExec }

// takesMessages reports whether there is a message source.
func (o *options) takesMessages() bool { return len(o.listen) > 0 }

const usageHead = `poolinit keeps a pool of worker processes alive, as PID 1 of a container.

Usage:
`

// usage writes what --help prints. The README has the same text, which a test
// holds.
func usage(w io.Writer) {
	fmt.Fprint(w, usageHead)
	for _, c := range commands() {
		if c.name == "run" {
			c.name = "[run]" // it may be left out
		}
		fmt.Fprintf(w, "  poolinit %-7s %-29s %s\n", c.name, c.args, c.summary)
	}
	fmt.Fprint(w, "\nFlags of run:\n", runFlags(new(options)).FlagUsages())
	fmt.Fprint(w, usageTail)
}

const usageTail = `
Every flag of run has an environment variable: POOLINIT_STOP_TIMEOUT=8s is
--stop-timeout 8s. The flag wins. Durations are 500ms, 8s, 1m30s; sizes 64MiB or 64M.

Signals: TERM, INT, QUIT, RTMIN+3 stop (twice: at once); USR1, HUP reload; all
others are passed on to the workers.

Exit codes: 0 stopped cleanly; 137 a worker had to be killed; 2 usage; 126, 127
COMMAND cannot be run; a failed worker's own with --give-up or --restart.
`

func printHelp() int {
	usage(os.Stdout)
	return 0
}
