package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/supervisor/notify"
)

// notifyPatience is how long notify waits until the pool has read its message, as
// systemd-notify does.
const notifyPatience = 5 * time.Second

const notifyHelp = `poolinit notify reports the state of a worker, for workers that cannot speak
sd_notify themselves: READY=1, STATUS=text, WATCHDOG=1, STOPPING=1.
Exit codes: 0 reported; 1 there is no pool to report to; 2 usage error.

Usage:
  poolinit notify VARIABLE=VALUE...

Flags:
`

// notifyPool is systemd-notify, for a worker's shell.
func notifyPool(args []string) int {
	s := flags.New("notify", func(usages string) string { return notifyHelp + usages })
	s.HelpFlag()
	states, err := s.Parse(args)
	if err == nil {
		err = checkStates(states)
	}
	if err != nil {
		return s.Report(err)
	}
	if err := tellState(strings.Join(states, "\n")); err != nil {
		fmt.Fprintln(os.Stderr, "poolinit: notify:", err)
		return exitFailed
	}
	return 0
}

func checkStates(args []string) error {
	if len(args) == 0 {
		return errors.New("notify needs at least one VARIABLE=VALUE, such as READY=1")
	}
	for _, arg := range args {
		if _, err := notify.Parse([]byte(arg)); err != nil {
			return fmt.Errorf("notify: %q is not allowed: %w; READY=1 is, for one", arg, err)
		}
		if strings.Contains(arg, "\n") {
			return fmt.Errorf("notify: %q is not allowed: it has more than one line", arg)
		}
	}
	return nil
}

func tellState(state string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return errors.New("NOTIFY_SOCKET is not set: this does not run in a worker")
	}
	return notify.Send(socket, state, notifyPatience)
}
