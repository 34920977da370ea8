package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/poolinit/poolinit/supervisor/notify"
)

// notifyPatience is how long notify waits until its word is read, as
// systemd-notify does.
const notifyPatience = 5 * time.Second

const notifyHelp = `poolinit notify tells how a worker is, for workers that cannot speak sd_notify
themselves: READY=1, STATUS=text, WATCHDOG=1, STOPPING=1.
Exit codes: 0 told; 1 there is nobody to tell; 2 usage.

Usage:
  poolinit notify VARIABLE=VALUE...

Flags:
`

// cmdNotify is systemd-notify, for a worker's shell.
func cmdNotify(args []string) int {
	signal.Reset() // they are caught for a pool; here they end the program
	fs := pflag.NewFlagSet("notify", pflag.ContinueOnError)
	fs.SetOutput(io.Discard) // reported here
	fs.Usage = func() {}
	help := false
	fs.BoolFuncP("help", "h", "print this", func(string) error { help = true; return nil })
	err := fs.Parse(args)
	switch {
	case err != nil:
		err = explain(fs, err)
	case help:
		fmt.Print(notifyHelp, fs.FlagUsages())
		return 0
	default:
		err = checkStates(fs.Args())
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "poolinit: %v\nTry 'poolinit notify --help'.\n", err)
		return exitUsage
	}
	if err := tellState(strings.Join(fs.Args(), "\n")); err != nil {
		fmt.Fprintln(os.Stderr, "poolinit: notify:", err)
		return exitControlFailed
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
		return errors.New("NOTIFY_SOCKET is not set: no worker runs this")
	}
	return notify.Send(socket, state, notifyPatience)
}
