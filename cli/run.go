package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/cli/terminal"
	"github.com/poolinit/poolinit/daemon"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/sources"
	"github.com/poolinit/poolinit/ipc/stream"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/reaper/signals"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/launch"
	"github.com/poolinit/poolinit/supervisor/output"
)

// maxConcurrency keeps the numbers of messages that a worker has below what its
// tags have room for.
const maxConcurrency = 4096

// leastMargin is what a stop needs after --stop-timeout: the last workers are
// reaped, clients read their answers, and the last lines are written.
const leastMargin = 2 * time.Second

// options are run's flags, parsed.
type options struct {
	daemon.Config
	user    flags.User
	forward []flags.Forwarding
}

// run is "poolinit run": it runs a pool until that ends.
func (a About) run(args []string) int {
	o := new(options)
	s := runFlags(o)
	warnings, err := o.parse(s, args, os.Environ())
	if err != nil {
		return s.Report(err)
	}
	o.Version, o.Revision = a.version(), revision()
	o.Env = o.user.Environ(workersEnviron(s))
	o.Credential = o.user.Credential
	o.Log.Terminal = terminal.Is(2)
	code, err := daemon.Main(o.Config, warnings)
	if err != nil {
		fmt.Fprintln(os.Stderr, "poolinit:", err)
		return flags.ExitUsage
	}
	return code
}

// workersEnviron returns what workers inherit: everything but poolinit's settings.
func workersEnviron(s *flags.Set) []string { return launch.Environ(s.IsVariable) }

// runFlags declares run's flags. The order is that of --help and the README.
func runFlags(o *options) *flags.Set {
	s := flags.New("", usageAround)
	s.FlagsFirst() // what follows COMMAND is its own
	var (
		any      = flags.AtLeast(0)
		positive = flags.AtLeast(time.Millisecond)
	)
	flags.Add(s, &o.Pool.Workers, flags.OrAuto(flags.Between(1, supervisor.MaxWorkers)), "workers", "n", "1", "`count`", "number of workers; auto: the CPU limit of the cgroup")
	flags.Add(s, &o.Pool.Restart, flags.OneOf(supervisor.RestartAlways, supervisor.RestartOnFailure, supervisor.RestartNever),
		"restart", "", "always", "`when`", "when to replace a worker that exited: always, on-failure or never")
	flags.Add(s, &o.Pool.RestartDelay, positive, "restart-delay", "", "100ms", "`time`", "delay before a failed worker is replaced: doubled each time, +-20 %;\nno delay after a healthy run")
	flags.Add(s, &o.Pool.RestartDelayMax, positive, "restart-delay-max", "", "30s", "`time`", "the longest such delay")
	flags.Add(s, &o.Pool.HealthyAfter, any, "healthy-after", "", "10s", "`time`", "a worker that has lived this long is healthy: its backoff starts over")
	flags.Add(s, &o.Pool.GiveUp, flags.Between(0, 1_000_000), "give-up", "", "10", "`count`", "stop when every worker has failed this many times in a row; 0: never")
	flags.Add(s, &o.Pool.StopSignal, flags.StopSignal, "stop-signal", "", "TERM", "`signal`", "the signal that asks a worker to stop")
	flags.Add(s, &o.Pool.StopAlone, flags.Either("group", "leader"), "stop-scope", "", "group", "`scope`", "who gets the stop signal: the worker's process group, or its leader alone,\nwhich ends its children itself (celery, gunicorn, php-fpm)")
	flags.Add(s, &o.Signals.Stop, flags.Signals, "stop-on", "", "TERM,INT,QUIT,RTMIN+3", "`signals`", "the signals that stop the pool; others are passed on to the workers")
	flags.Add(s, &o.Signals.Reload, flags.SignalsOrNone, "reload-on", "", "USR1,HUP", "`signals`", "the signals that replace the workers one by one; empty: none")
	flags.List(s, &o.forward, flags.Forward, "forward", "`signals`", "pass on another signal than the one that came, as USR1=USR2, or none, as\nUSR1=; repeatable")
	flags.Add(s, &o.Pool.StopTimeout, positive, "stop-timeout", "", "8s", "`time`", "time from the stop request to SIGKILL, drain included")
	flags.Add(s, &o.DrainDelay, any, "drain-delay", "", "0s", "`time`", "after a stop request, keep serving this long while not ready")
	flags.Add(s, &o.GracePeriod, any, "grace-period", "", "0s", "`time`", "after which the orchestrator kills all that is left: --stop-timeout has to be\n2s shorter, or nothing is started; 0s: not known")
	flags.Add(s, &o.TerminationLog, flags.File, "termination-log", "", "/dev/termination-log", "`file`", "write the last line and the reason of an end there, if the file exists")
	s.Switch(&o.LostOK, flags.Bool, "lost-ok", "do not exit with 75 after a stop that lost messages")
	s.Switch(&o.RunAtExit, flags.Bool, "run-at-exit", "run COMMAND once more after the last worker, with POOLINIT_EVENT=shutdown")
	flags.Add(s, &o.Pool.Ready, flags.OneOf(supervisor.ReadyAuto, supervisor.ReadyNotify, supervisor.ReadyStarted),
		"ready", "", "auto", "`how`", "when a worker counts as ready: notify (sd_notify READY=1), started (at once),\nor auto: by READY=1, by an answered message, or after --min-ready")
	flags.Add(s, &o.Pool.MinReady, any, "min-ready", "", "3s", "`time`", "how long a worker must stay up before it counts as ready; auto: a tenth of it\nafter a reload's first; notify and started: 0s unless given")
	flags.Add(s, &o.Pool.ReadyTimeout, positive, "ready-timeout", "", "30s", "`time`", "a worker that is not ready within this time has failed to start")
	flags.Add(s, &o.Pool.Watchdog, any, "watchdog", "", "0s", "`time`", "a worker that sends no WATCHDOG=1 (sd_notify) within this time hangs:\nSIGABRT, SIGKILL 1 s later; 0s: off")
	flags.Add(s, &o.Pool.StartFirst, flags.Either("stop-first", "start-first"), "reload-order", "", "stop-first", "`order`", "stop-first, or start-first: the new worker is ready before the old one is\nasked to stop")
	flags.Add(s, &o.Pool.ReloadParallel, parsePart, "reload-parallel", "", "10%", "`part`", "how many workers a reload replaces at a time, after the first one: a number,\nor a percentage of all workers")
	flags.Add(s, &o.Queue.MaxMessages, flags.Between(0, 1<<40), "max-messages", "", "0", "`count`", "replace a worker after this many messages, +-10 %; 0: off")
	flags.Add(s, &o.Pool.MaxLifetime, any, "max-lifetime", "", "0s", "`time`", "replace a worker after this time, +-10 %; 0s: off")
	flags.Add(s, &o.Pool.MaxMemory, flags.Size, "max-memory", "", "0", "`size`", "replace a worker whose RSS is larger, +-10 %; 0: off")
	flags.Add(s, &o.Chdir, flags.Directory, "chdir", "", "", "`directory`", "where workers run, resolved at each start; COMMAND is relative to it")
	flags.Add(s, &o.user, flags.ParseUser, "user", "", "", "`user`", "run workers as this user: name, uid or uid:gid; poolinit keeps its own")
	flags.Add(s, &o.OOMScoreAdj, flags.Between(0, 1000), "oom-score-adj", "", "500", "`count`", "how much more the OOM killer prefers a worker to poolinit: added to\npoolinit's own oom_score_adj, at most 1000; 0: not at all")
	s.Switch(&o.NewPrivs, flags.Bool, "new-privs", "with --user: let workers gain privileges by set-user-ID programs and file\ncapabilities")
	flags.Add(s, &o.Output, parseOutput, "output", "", "inherit", "`mode`", "workers' stdout and stderr: inherit, prefix ([worker 3] line) or json")
	flags.List(s, &o.Listen, sources.Parse, "listen", "`URL`", "accept messages on tcp://HOST:PORT, unix:///PATH or sysv://KEY; repeatable")
	flags.List(s, &o.Share, stream.ParseShare, "share", "`URL`", "open tcp://HOST:PORT or unix:///PATH once, and let every worker accept on it\n(systemd's LISTEN_FDS), or hand on fd://NAME, which poolinit was given; repeatable")
	flags.Add(s, &o.Deliver, flags.OneOf("frames", "tagged", "lines", launch.DeliverExec), "deliver", "", "frames", "`how`", "how workers get messages: on fd 3 as frames (4-byte length and body), tagged\n(with a number and meta, answered in any order) or lines; exec: COMMAND runs\nonce per message, from stdin to stdout")
	flags.Add(s, &o.Queue.Window, flags.OrAuto(flags.Between(1, 4096)), "window", "", "auto", "`count`", "messages in flight to one worker, or auto: about 1 ms of work, and 1 with\n--deliver lines")
	flags.Add(s, &o.Queue.Concurrency, flags.Between(1, maxConcurrency), "concurrency", "", "1", "`count`", "with --deliver tagged: messages that a worker handles at the same time")
	flags.Add(s, &o.Queue.QueueMessages, flags.Between(1, 1<<30), "queue-messages", "", "1024", "`count`", "messages that may wait in memory; beyond that, senders wait")
	flags.Add(s, &o.Queue.QueueBytes, flags.OrAuto(flags.AtLeastSize(1<<10)), "queue-bytes", "", "auto", "`size`", "bytes of messages that may wait in memory; auto: 64MiB, or an eighth of the\nmemory limit if that is less")
	flags.Add(s, &o.Queue.ReplyBytes, flags.OrAuto(flags.AtLeastSize(64<<10)), "reply-bytes", "", "auto", "`size`", "bytes of replies that may wait for slow clients; auto: as --queue-bytes.\nBeyond that the client with most of them is cut off")
	flags.Add(s, &o.Queue.MaxMessage, flags.AtLeastSize(1), "max-message", "", "2MiB", "`size`", "reject longer messages")
	flags.Add(s, &o.Queue.MessageTimeout, any, "message-timeout", "", "0s", "`time`", "a worker that holds one message longer gets --timeout-signal; 0s: off")
	flags.Add(s, &o.Pool.TimeoutSignal, flags.Signal, "timeout-signal", "", "KILL", "`signal`", "the signal at --message-timeout: QUIT and ABRT make many runtimes print a\nstack; SIGKILL follows 1 s later")
	flags.Add(s, &o.Queue.Attempts, flags.Between(1, 1<<20), "attempts", "", "3", "`count`", "how often a message is delivered before it is given up; 1: at most once")
	flags.Add(s, &o.Queue.RetryDelay, any, "retry-delay", "", "1s", "`time`", "delay before a third delivery: doubled each time, +-20 %; the second is\nimmediate")
	flags.Add(s, &o.Queue.RetryDelayMax, any, "retry-delay-max", "", "30s", "`time`", "the longest such delay; a worker that asks for a longer one has the client\ntold")
	flags.Add(s, &o.Queue.MaxFailures, flags.Between(0, 1<<30), "max-failures", "", "0", "`count`", "replace a worker that has answered this many messages in a row with a\nfailure; 0: off")
	flags.Add(s, &o.Spool, flags.Directory, "spool", "", "", "`directory`", "where to keep given-up messages, and undelivered ones until the next start")
	flags.Add(s, &o.SpoolBytes, flags.Size, "spool-bytes", "", "1GiB", "`size`", "what the files of the spool may take; beyond it, given-up messages are lost and\ncounted; 0: no limit")
	flags.Add(s, &o.HTTP, flags.Address, "http", "", "", "`address`", "serve metrics, health and status over HTTP, for example on :9090")
	flags.List(s, &o.HTTPHost, flags.HostName, "http-host", "`name`", "another name that requests to --http may be for, beside localhost, IP\naddresses and the host of --http; repeatable")
	flags.Add(s, &o.Log.Level, flags.OneOf("debug", "info", "warn", "error"), "log-level", "", "info", "`level`", "debug, info, warn or error")
	flags.Add(s, &o.Log.Format, flags.OneOf("auto", "text", "json"), "log-format", "", "auto", "`format`", "text, json, or auto: text on a terminal, otherwise json; logs go to stderr")
	s.HelpFlag()
	return s
}

// parsePart takes a number of workers, or a percentage of them.
func parsePart(s string) (supervisor.Part, error) {
	digits, percent := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(digits)
	switch {
	case err != nil, n < 1, percent && n > 100, n > supervisor.MaxWorkers:
		return supervisor.Part{}, fmt.Errorf("a whole number from 1 to %d, or from 1%% to 100%%", supervisor.MaxWorkers)
	case percent:
		return supervisor.Part{Percent: n}, nil
	}
	return supervisor.Part{Number: n}, nil
}

func parseOutput(s string) (output.Mode, error) {
	mode, err := output.ParseMode(s)
	if err != nil {
		return mode, fmt.Errorf("%s, %s or %s", output.Inherit, output.Prefix, output.JSON)
	}
	return mode, nil
}

// parse reads run's command line and environment. The error is for the set's
// Report; warnings are about variables that mean nothing.
func (o *options) parse(s *flags.Set, args, environ []string) (warnings []string, err error) {
	if o.Command, err = s.Parse(args); err != nil {
		return nil, err
	}
	if warnings, err = s.ParseEnviron(environ, outerPool(environ)); err != nil {
		return nil, err
	}
	if len(o.Command) == 0 {
		return nil, errors.New("COMMAND is missing; for example: poolinit -n 4 -- php worker.php")
	}
	if o.Command[0] == "" {
		return nil, errors.New(`COMMAND is "", which is not a program`)
	}
	if near := mistyped(o.Command, environ); near != "" && !s.Dashed() {
		return nil, fmt.Errorf("there is no command %s in $PATH; did you mean poolinit %s?", o.Command[0], near)
	}
	o.settleReadiness(s.Given("min-ready"))
	if err := o.settleSignals(s.Given("reload-on")); err != nil {
		return warnings, err
	}
	return warnings, o.check()
}

// settleReadiness makes the defaults of readiness fit the other flags. The wait
// of auto is for a process that starts: a command that runs once a message is
// ready at once.
func (o *options) settleReadiness(minReadyGiven bool) {
	if o.RunsPerMessage() && o.Pool.Ready == supervisor.ReadyAuto {
		o.Pool.Ready = supervisor.ReadyStarted
	}
	switch {
	case minReadyGiven:
	case o.Pool.Ready == supervisor.ReadyAuto:
		o.Pool.MinReady = min(o.Pool.MinReady, o.Pool.ReadyTimeout/2)
	default:
		o.Pool.MinReady = 0
	}
}

// settleSignals gives each signal one meaning. --forward goes before the default of
// --reload-on, and is refused beside one that was given.
func (o *options) settleSignals(reloadGiven bool) error {
	s := &o.Signals
	s.Forward = make(map[syscall.Signal]syscall.Signal)
	for _, f := range o.forward {
		name := strings.TrimPrefix(signals.Name(f.From), "SIG")
		switch _, twice := s.Forward[f.From]; {
		case twice:
			return fmt.Errorf("--forward has %s twice", name)
		case s.Stop[f.From]:
			return fmt.Errorf("--forward %s=... is not possible while --stop-on has %s: take it out there; --stop-signal says what workers get at a stop", name, name)
		case s.Reload[f.From] && reloadGiven:
			return fmt.Errorf("--forward %s=... is not possible while --reload-on has %s: take it out there", name, name)
		}
		s.Reload[f.From] = false
		s.Forward[f.From] = f.To
	}
	for sig, stops := range s.Stop {
		if name := strings.TrimPrefix(signals.Name(syscall.Signal(sig)), "SIG"); stops && s.Reload[sig] && reloadGiven {
			return fmt.Errorf("--stop-on and --reload-on both have %s: leave it out of one of them", name)
		} else if stops {
			s.Reload[sig] = false
		}
	}
	return nil
}

// outerPool returns the names of variables that are not settings of this pool. If
// this process is a worker of another poolinit, it has all the variables that a
// pool gives to its workers, and POOLINIT_WORKERS is the size of that pool.
func outerPool(environ []string) []string {
	inWorker := slices.ContainsFunc(environ, func(v string) bool {
		return strings.HasPrefix(v, "POOLINIT_WORKER_ID=") || strings.HasPrefix(v, daemon.EventVariable+"=")
	})
	if inWorker {
		return launch.OwnVariables()
	}
	return nil
}

// mistyped returns the subcommand that the user may have meant by a COMMAND that
// does not exist, or "". The check has to come first: in a container where another
// pool already listens, this one would fail for that reason.
func mistyped(command, environ []string) string {
	var names []string
	for _, c := range commands(About{}) {
		names = append(names, c.name)
	}
	near := flags.Nearest(command[0], names)
	if near == "" || near == command[0] && near == "run" || strings.Contains(command[0], "/") || !errors.Is(reaper.Look(command, environ, ""), fs.ErrNotExist) {
		return ""
	}
	return near
}

// check compares flags with each other.
func (o *options) check() error {
	switch {
	case o.Pool.StopTimeout <= o.DrainDelay:
		return fmt.Errorf("--stop-timeout %s must be longer than --drain-delay %s, which is part of it", o.Pool.StopTimeout, o.DrainDelay)
	case o.GracePeriod > 0 && o.GracePeriod < o.Pool.StopTimeout+leastMargin:
		return fmt.Errorf("--grace-period %s must be at least %s longer than --stop-timeout %s, or the end of a stop is cut off",
			o.GracePeriod, leastMargin, o.Pool.StopTimeout)
	case o.Pool.RestartDelayMax < o.Pool.RestartDelay:
		return fmt.Errorf("--restart-delay-max %s must not be shorter than --restart-delay %s", o.Pool.RestartDelayMax, o.Pool.RestartDelay)
	case (o.Deliver == "lines" || o.Deliver == "tagged") && len(o.Listen) == 0:
		return fmt.Errorf("--deliver %s needs --listen: there are no messages without it", o.Deliver)
	case o.Queue.Concurrency > 1 && o.Deliver != "tagged":
		return fmt.Errorf("--concurrency %d needs --deliver tagged: other workers answer in order", o.Queue.Concurrency)
	case o.Queue.RetryDelayMax < o.Queue.RetryDelay:
		return fmt.Errorf("--retry-delay-max %s must not be shorter than --retry-delay %s", o.Queue.RetryDelayMax, o.Queue.RetryDelay)
	case o.Deliver == "tagged" && o.Queue.MaxMessage > frame.MaxTaggedBody:
		return fmt.Errorf("--max-message %d is too large for --deliver tagged, whose frames have at most %d bytes", o.Queue.MaxMessage, frame.MaxTaggedBody)
	case o.Pool.ReadyTimeout <= o.Pool.MinReady:
		return fmt.Errorf("--ready-timeout %s must be longer than --min-ready %s, which is part of it", o.Pool.ReadyTimeout, o.Pool.MinReady)
	}
	if err := o.checkExec(); err != nil {
		return err
	}
	return o.user.Allowed()
}

// checkExec refuses what has no meaning for a command that runs once a message.
func (o *options) checkExec() error {
	switch {
	case !o.RunsPerMessage():
		return nil
	case len(o.Listen) == 0:
		return errors.New("--deliver exec needs --listen: there are no messages without it")
	case o.Pool.Ready == supervisor.ReadyNotify:
		return errors.New("--deliver exec cannot be combined with --ready notify: a command that runs once per message is never ready before it")
	case o.Pool.Watchdog > 0:
		return errors.New("--deliver exec cannot be combined with --watchdog: use --message-timeout to limit a command that runs once per message")
	case o.Pool.StopAlone:
		return errors.New("--deliver exec cannot be combined with --stop-scope leader: a command that runs once per message ends with its whole group")
	case o.Queue.Window > 1:
		return fmt.Errorf("--deliver exec cannot be combined with --window %d: a worker runs one command at a time; use --workers to run more", o.Queue.Window)
	case len(o.Share) > 0:
		return errors.New("--deliver exec cannot be combined with --share: a command that runs once per message does not accept connections")
	}
	return nil
}
