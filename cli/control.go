package cli

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/cli/terminal"
	"github.com/poolinit/poolinit/metrics/control"
	"github.com/poolinit/poolinit/supervisor"
)

// controlOptions are the flags and arguments of the commands that ask a running
// pool, parsed; each of these has some of them.
type controlOptions struct {
	pid     int // 0: PID 1, or the only pool
	wait    bool
	now     bool // of stop
	json    bool
	watch   bool
	ready   bool
	limit   int      // of queue list
	workers int      // of scale
	drop    []uint64 // of queue drop
}

// A controlCommand is one of the subcommands that ask a running pool for something.
type controlCommand struct {
	name    string
	args    string // those of its usage that are not flags
	about   string // the text of --help before the flags
	declare func(s *flags.Set, o *controlOptions)
	takes   func(args []string, o *controlOptions) error // nil: it takes no arguments
	run     func(o *controlOptions) error
}

func (c *controlCommand) flags(o *controlOptions) *flags.Set {
	s := flags.New(c.name, func(usages string) string {
		return fmt.Sprintf("poolinit %s %s\n\nUsage:\n  poolinit %s [flags]%s\n\nFlags:\n%s", c.name, c.about, c.name, c.args, usages)
	})
	if c.declare != nil {
		c.declare(s, o)
	}
	flags.Add(s, &o.pid, flags.Between(0, 1<<22), "pid", "", "0", "`number`", "the pool with this PID; 0: PID 1, or the only pool")
	s.HelpFlag()
	return s
}

// main parses a command line and runs it.
func (c *controlCommand) main(args []string) int {
	o := new(controlOptions)
	s := c.flags(o)
	rest, err := s.Parse(args)
	if err == nil {
		err = c.take(rest, o)
	}
	if err != nil {
		return s.Report(err)
	}
	if err := c.run(o); err != nil {
		fmt.Fprintln(os.Stderr, "poolinit:", terminal.Printable(err.Error())) // part of it may come from the pool
		return exitFailed
	}
	return 0
}

// take reads the arguments that are not flags.
func (c *controlCommand) take(args []string, o *controlOptions) error {
	switch {
	case c.takes != nil:
		return c.takes(args, o)
	case len(args) > 0:
		return fmt.Errorf("%s takes no arguments, but got %q", c.name, args[0])
	}
	return nil
}

// dial connects to the pool of --pid.
func (o *controlOptions) dial() (*control.Client, error) {
	if o.pid == 0 {
		return control.Open()
	}
	return control.Dial(o.pid)
}

var reloadCommand = controlCommand{
	name:  "reload",
	about: "replaces the workers of the running pool one by one, as SIGUSR1 does.\nExit codes: 0 requested (with --wait: done); 1 failed, or there is no pool; 2 usage error.",
	declare: func(s *flags.Set, o *controlOptions) {
		s.Switch(&o.wait, flags.TrueOrFalse, "wait", "wait until it has ended; the exit code says how")
	},
	run: reload,
}

func reload(o *controlOptions) error {
	c, err := o.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	end, err := c.Reload(o.wait, func(a control.Answer) {
		fmt.Printf("generation %d: %d of %d workers replaced\n", a.Generation, a.Replaced, a.Workers)
	})
	switch {
	case err != nil:
		return err
	case !o.wait && end.Outcome != "":
		return fmt.Errorf("reload refused: %s", end.Reason)
	case !o.wait:
		fmt.Printf("process %d reloads\n", c.PID)
	case end.Outcome != string(supervisor.Complete):
		printLastLines(end.Stderr)
		return fmt.Errorf("reload %s: %s", end.Outcome, end.Reason)
	default:
		fmt.Printf("reload done in %.1fs\n", end.Seconds)
	}
	return nil
}

// printLastLines prints what the worker that a reload failed at has last printed,
// line by line.
func printLastLines(text string) {
	if text == "" {
		return
	}
	fmt.Fprintln(os.Stderr, "last lines of the worker on stderr:")
	for line := range strings.Lines(text) {
		fmt.Fprintln(os.Stderr, "  "+terminal.Printable(strings.TrimSuffix(line, "\n")))
	}
}

var stopCommand = controlCommand{
	name:  "stop",
	about: "stops the running pool, as SIGTERM does. A further request changes nothing, except\nwith --now.\nExit codes: 0 requested (with --wait: stopped); 1 there is no pool; 2 usage error.",
	declare: func(s *flags.Set, o *controlOptions) {
		s.Switch(&o.wait, flags.TrueOrFalse, "wait", "wait until it has stopped")
		s.Switch(&o.now, flags.TrueOrFalse, "now", "kill the workers at once, also if the pool is stopping already")
	},
	run: stop,
}

func stop(o *controlOptions) error {
	c, err := o.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if c.PID == 1 && o.wait { // when its workers are gone, it signals all that is left in its namespace: this process too
		onSignal(c.Close, syscall.SIGHUP, syscall.SIGTERM)
	}
	switch a, err := c.Stop(o.wait, o.now); {
	case err != nil:
		return err
	case !o.wait && a.Kills:
		fmt.Printf("process %d kills its workers\n", c.PID)
	case !o.wait:
		fmt.Printf("process %d stops\n", c.PID)
	default:
		fmt.Printf("process %d has stopped its workers\n", c.PID)
	}
	return nil
}

// onSignal calls f at the first of these signals. They do not end this process any
// more.
func onSignal(f func(), sigs ...os.Signal) {
	came := make(chan os.Signal, 1) // 1: one is enough
	signal.Notify(came, sigs...)
	go func() { // ends with the program
		<-came
		f()
	}()
}

var healthCommand = controlCommand{
	name: "health",
	about: "checks the running pool, for HEALTHCHECK and exec probes.\n" +
		"Exit codes: 0 healthy; 1 not healthy, or there is no pool; 2 usage error.",
	declare: func(s *flags.Set, o *controlOptions) {
		s.Switch(&o.ready, flags.TrueOrFalse, "ready", "check whether it serves, as /readyz; otherwise whether it is alive, as /livez")
	},
	run: health,
}

func health(o *controlOptions) error {
	c, err := o.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	a, err := c.Health()
	switch {
	case err != nil:
		return err
	case !a.Live:
		return fmt.Errorf("not alive: %s", a.Reason)
	case o.ready && !a.Ready:
		return fmt.Errorf("not ready: %s", a.Reason)
	}
	fmt.Println("ok")
	return nil
}

var pauseCommand = controlCommand{
	name: "pause",
	about: "ends the handing out of messages to workers, until poolinit resume or\nthe stop of the pool. Sources go on accepting until the queue is full.\n" +
		"Exit codes: 0 done; 1 refused, or there is no pool; 2 usage error.",
	run: func(o *controlOptions) error {
		return o.change((*control.Client).Pause, "process %d is paused\n")
	},
}

var resumeCommand = controlCommand{
	name:  "resume",
	about: "ends what poolinit pause began.\nExit codes: 0 done; 1 refused, or there is no pool; 2 usage error.",
	run: func(o *controlOptions) error {
		return o.change((*control.Client).Resume, "process %d hands out messages\n")
	},
}

var scaleCommand = controlCommand{
	name: "scale",
	args: " N",
	about: "changes how many workers the running pool keeps. Workers that are too\nmany finish what they have in hand.\n" +
		"Exit codes: 0 requested; 1 refused, or there is no pool; 2 usage error.",
	takes: func(args []string, o *controlOptions) (err error) {
		if len(args) != 1 {
			return fmt.Errorf("scale needs a number of workers, and nothing else, but got %d arguments", len(args))
		}
		if o.workers, err = flags.Between(1, supervisor.MaxWorkers)(args[0]); err != nil {
			return flags.BadValue("scale", args[0], err)
		}
		return nil
	},
	run: func(o *controlOptions) error {
		scale := func(c *control.Client) error { return c.Scale(o.workers) }
		return o.change(scale, fmt.Sprintf("process %%d scales to %d workers\n", o.workers))
	},
}

// change asks the pool for something that is done at once, and says so.
func (o *controlOptions) change(ask func(*control.Client) error, done string) error {
	c, err := o.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := ask(c); err != nil {
		return err
	}
	fmt.Printf(done, c.PID)
	return nil
}
