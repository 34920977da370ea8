package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/cli/terminal"
	"github.com/poolinit/poolinit/metrics/status"
)

// watchTick is how often status --watch looks.
const watchTick = time.Second

// wideEnough is how many columns of a terminal show LAST-EXIT where it stands in
// the table. It is a fixed number as the table's own width changes each second: the
// columns would jump.
const wideEnough = 150

var statusCommand = controlCommand{
	name:  "status",
	about: "shows the running pool.\nExit codes: 0; 1 there is no pool, or it does not answer; 2 usage.",
	declare: func(s *flags.Set, o *controlOptions) {
		s.Switch(&o.json, flags.TrueOrFalse, "json", "as JSON, which docs/status.md describes")
		s.Switch(&o.watch, flags.TrueOrFalse, "watch", "again each second, until Ctrl-C")
	},
	run: showStatus,
}

func showStatus(o *controlOptions) error {
	if o.watch {
		return watchStatus(o)
	}
	d, raw, err := askStatus(context.Background(), o)
	switch {
	case err != nil:
		return err
	case o.json:
		_, err = os.Stdout.Write(raw)
	default:
		_, err = os.Stdout.WriteString(table(d, colourful(), false))
	}
	return err
}

func askStatus(ctx context.Context, o *controlOptions) (*status.Document, []byte, error) {
	c, err := o.dial()
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, c.Close)()
	return c.Status()
}

// clever reports whether stdout is a terminal that obeys more than an end of line.
func clever() bool { return terminal.Is(1) && os.Getenv("TERM") != "dumb" }

// colourful reports whether colours are wanted: see no-color.org.
func colourful() bool { return clever() && os.Getenv("NO_COLOR") == "" }

// What a terminal is told: to show another screen for the time being, without
// a cursor, and with nothing but the first so many columns of a line, and to go
// back; and to begin at the top, to clear a line before it is written (after a full
// one it would take the last letter), and to clear the rest.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	toTop       = "\x1b[H"
	clearLine   = "\x1b[K"
	clearRest   = "\x1b[J"
)

// watchStatus shows the pool until somebody ends it. A pool that goes away is
// waited for, as the container that it was in may come back; but a process that is
// no pool to begin with will not become one.
func watchStatus(o *controlOptions) error {
	if o.pid != 0 {
		c, err := o.dial()
		if err != nil {
			return err
		}
		c.Close()
	}
	ctx, end := context.WithCancel(context.Background())
	atSignal(end, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	resized := make(chan os.Signal, 1) // 1: it is drawn as it is then
	tty := clever() && !o.json
	if tty {
		signal.Notify(resized, syscall.SIGWINCH, syscall.SIGTSTP) // Ctrl-Z would leave the shell without a cursor
		fmt.Print(enterScreen)
		defer fmt.Print(leaveScreen)
	}
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	for {
		if err := showAgain(ctx, o, tty); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-resized:
		}
	}
}

// showAgain shows the pool once. The error is that of writing.
func showAgain(ctx context.Context, o *controlOptions, tty bool) error {
	d, raw, err := askStatus(ctx, o)
	text := string(raw)
	width, height := windowSize()
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil && o.json:
		fmt.Fprintln(os.Stderr, "poolinit:", terminal.Printable(err.Error()))
		return nil
	case err != nil:
		text = "poolinit: " + terminal.Printable(err.Error()) + "\n"
	case !o.json:
		text = table(d, tty && colourful(), tty && width < wideEnough)
	}
	if tty {
		text = screen(text, width, height)
	} else if !o.json {
		text += "\n"
	}
	_, err = os.Stdout.WriteString(text)
	return err
}

// windowSize is that of the terminal, as far as it knows.
func windowSize() (width, height int) {
	if ws, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil && ws.Col > 0 && ws.Row > 1 {
		return int(ws.Col), int(ws.Row)
	}
	return 80, 24
}

// screen fits a text into a terminal, over what is there.
func screen(text string, width, height int) string {
	height-- // the last line stays free, as an end of line there would scroll
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if more := len(lines) - height; more > 0 {
		lines = append(lines[:height-1], fmt.Sprintf("... and %d lines more", more+1))
	}
	var b strings.Builder
	b.WriteString(toTop)
	for _, line := range lines {
		b.WriteString(clearLine + cut(line, width) + "\n")
	}
	b.WriteString(clearRest)
	return b.String()
}

// cut shortens a line to what is seen of it in so many columns, the last of which
// says that there is more. Colours take no room, and are ended.
func cut(line string, width int) string {
	seen, end, inColour := 0, 0, false
	for i, r := range line {
		switch {
		case r == '\x1b':
			inColour = true
		case inColour:
			inColour = r != 'm'
		case seen == width:
			return line[:end] + colourOff + ">"
		default:
			seen, end = seen+1, i
		}
	}
	return line
}
