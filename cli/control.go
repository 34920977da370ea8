package cli

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/cli/terminal"
	"github.com/poolinit/poolinit/metrics/control"
	"github.com/poolinit/poolinit/supervisor"
)

// controlOptions are the flags of status, reload, stop and health, parsed; each of
// these has some of them.
type controlOptions struct {
	pid   int // 0: PID 1, or the only pool
	wait  bool
	json  bool
	watch bool
	ready bool
}

// A controlCommand is one of the subcommands that ask a running pool for something.
type controlCommand struct {
	name    string
	about   string // the text of --help before the flags
	declare func(s *flags.Set, o *controlOptions)
	run     func(o *controlOptions) error
}

func (c *controlCommand) flags(o *controlOptions) *flags.Set {
	s := flags.New(c.name, func(usages string) string {
		return fmt.Sprintf("poolinit %s %s\n\nUsage:\n  poolinit %s [flags]\n\nFlags:\n%s", c.name, c.about, c.name, usages)
	})
	c.declare(s, o)
	flags.Add(s, &o.pid, flags.Between(0, 1<<22), "pid", "", "0", "`number`", "the pool with this PID; 0: PID 1, or the only pool")
	s.HelpFlag()
	return s
}

// main parses a command line and runs it.
func (c *controlCommand) main(args []string) int {
	o := new(controlOptions)
	s := c.flags(o)
	rest, err := s.Parse(args)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%s takes no arguments, but got %q", c.name, rest[0])
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
		return fmt.Errorf("reload %s: %s", end.Outcome, end.Reason)
	default:
		fmt.Printf("reload done in %.1fs\n", end.Seconds)
	}
	return nil
}

var stopCommand = controlCommand{
	name:  "stop",
	about: "stops the running pool, as SIGTERM does; a second request kills the workers.\nExit codes: 0 requested (with --wait: stopped); 1 there is no pool; 2 usage error.",
	declare: func(s *flags.Set, o *controlOptions) {
		s.Switch(&o.wait, flags.TrueOrFalse, "wait", "wait until it has stopped")
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
		onSignal(c.Close, syscall.SIGTERM)
	}
	switch a, err := c.Stop(o.wait); {
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
