package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/status"
)

// watchTick is how often status --watch looks.
const watchTick = time.Second

var statusCommand = controlCommand{
	name:  "status",
	about: "shows the running pool.\nExit codes: 0; 1 there is no pool, or it does not answer; 2 usage.",
	flags: func(fs *pflag.FlagSet, o *controlOptions) {
		addSwitch(fs, &o.json, "json", "as JSON, which docs/status.md describes")
		addSwitch(fs, &o.watch, "watch", "again each second, until Ctrl-C")
	},
	run: showStatus,
}

func showStatus(o *controlOptions) error {
	if o.watch {
		return watchStatus(o)
	}
	d, raw, err := askStatus(o)
	switch {
	case err != nil:
		return err
	case o.json:
		_, err = os.Stdout.Write(raw)
	default:
		_, err = os.Stdout.WriteString(table(d, isTerminal(1)))
	}
	return err
}

func askStatus(o *controlOptions) (*status.Document, []byte, error) {
	c, err := o.dial()
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	return c.Status()
}

// What a terminal is told: to show another screen for the time being, without
// a cursor, and to go back; and to begin at the top, and to clear the rest.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	toTop       = "\x1b[H"
	clearLine   = "\x1b[K\n"
	clearRest   = "\x1b[J"
)

// watchStatus shows the pool until somebody ends it. A pool that goes away is
// waited for, as the container that it was in may come back.
func watchStatus(o *controlOptions) error {
	done := make(chan os.Signal, 1) // 1: one is enough
	signal.Notify(done, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	tty := isTerminal(1) && !o.json
	if tty {
		fmt.Print(enterScreen)
		defer fmt.Print(leaveScreen)
	}
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	for {
		if err := showAgain(o, tty); err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-tick.C:
		}
	}
}

// showAgain shows the pool once. The error is that of writing.
func showAgain(o *controlOptions, tty bool) error {
	d, raw, err := askStatus(o)
	text := string(raw)
	switch {
	case err != nil && o.json:
		fmt.Fprintf(os.Stderr, "poolinit: %v\n", err)
		return nil
	case err != nil:
		text = fmt.Sprintf("poolinit: %v\n", err)
	case !o.json:
		text = table(d, tty)
	}
	if tty {
		text = screen(text)
	} else if !o.json {
		text += "\n"
	}
	_, err = os.Stdout.WriteString(text)
	return err
}

// screen fits a text into the terminal, over what is there.
func screen(text string) string {
	width, height := 80, 24
	if ws, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil && ws.Col > 0 && ws.Row > 1 {
		width, height = int(ws.Col), int(ws.Row)
	}
	var b strings.Builder
	b.WriteString(toTop)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		if i == height-1 {
			break // the last line stays free, as an end of line there would scroll
		}
		b.WriteString(cut(line, width))
		b.WriteString(clearLine)
	}
	b.WriteString(clearRest)
	return b.String()
}

// cut shortens a line to what is seen of it in so many columns. Colours take no
// room, and are ended.
func cut(line string, width int) string {
	seen, inColour := 0, false
	for i, r := range line {
		switch {
		case r == '\x1b':
			inColour = true
		case inColour:
			inColour = r != 'm'
		case seen == width:
			return line[:i] + colourOff
		default:
			seen++
		}
	}
	return line
}
