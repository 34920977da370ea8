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
	"github.com/poolinit/poolinit/reaper/entry"
)

// watchTick is how often status --watch asks the pool.
const watchTick = time.Second

// wideEnough is the width of a terminal from which on LAST-EXIT keeps its place in
// the table. The width of the table itself changes each second, and the columns
// would jump if it decided this.
const wideEnough = 150

var statusCommand = controlCommand{
	name:  "status",
	about: "shows the running pool.\nExit codes: 0 shown; 1 there is no pool, or it does not answer; 2 usage error.",
	declare: func(s *flags.Set, o *controlOptions) {
		s.Switch(&o.json, flags.TrueOrFalse, "json", "print JSON, as described in docs/status.md")
		s.Switch(&o.watch, flags.TrueOrFalse, "watch", "update every second, until Ctrl-C")
	},
	run: showStatus,
}

func showStatus(o *controlOptions) error {
	if o.watch {
		return watchStatus(o)
	}
	d, raw, err := fetchStatus(context.Background(), o)
	switch {
	case err != nil:
		return err
	case o.json:
		_, err = os.Stdout.Write(raw)
	default:
		_, err = os.Stdout.WriteString(table(d, wantsColours(), false))
	}
	return err
}

func fetchStatus(ctx context.Context, o *controlOptions) (*status.Document, []byte, error) {
	c, err := o.dial()
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, c.Close)()
	return c.Status()
}

// hasEscapes reports whether stdout is a terminal that knows escape sequences.
func hasEscapes() bool { return terminal.Is(1) && os.Getenv("TERM") != "dumb" }

// wantsColours reports whether to use colours: see no-color.org.
func wantsColours() bool { return hasEscapes() && os.Getenv("NO_COLOR") == "" }

// Escape sequences. enterScreen switches to the alternate screen, hides the cursor
// and cuts long lines; leaveScreen undoes that. clearLine comes before a line is
// written: after a full one it would erase the last letter.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	toTop       = "\x1b[H"
	clearLine   = "\x1b[K"
	clearRest   = "\x1b[J"
)

// watchStatus shows the pool until a signal ends it. If the pool goes away, it goes
// on trying, since the container may come back. But if the process of --pid is not
// a pool to begin with, it never will be: that is an error.
func watchStatus(o *controlOptions) error {
	if o.pid != 0 {
		c, err := o.dial()
		if err != nil {
			return err
		}
		c.Close()
	}
	ctx, end := context.WithCancel(context.Background())
	onSignal(end, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	resized := make(chan os.Signal, 1)   // 1: it is drawn with the size of that moment, so one signal is enough
	suspended := make(chan os.Signal, 1) // 1: one Ctrl-Z stops it
	tty := hasEscapes() && !o.json
	if tty {
		signal.Notify(resized, syscall.SIGWINCH)
		signal.Notify(suspended, syscall.SIGTSTP)
		fmt.Print(enterScreen)
		defer fmt.Print(leaveScreen)
	}
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	for {
		if err := showOnce(ctx, o, tty); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-resized:
		case <-suspended:
			suspend()
		}
	}
}

// suspend leaves the terminal to the shell, as Ctrl-Z asks for, and takes it again
// when the shell continues this program.
func suspend() {
	fmt.Print(leaveScreen)
	entry.Suspend()
	fmt.Print(enterScreen)
}

// showOnce shows the pool as it is now. The error is that of writing.
func showOnce(ctx context.Context, o *controlOptions, tty bool) error {
	d, raw, err := fetchStatus(ctx, o)
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
		text = table(d, tty && wantsColours(), tty && width < wideEnough)
	}
	if tty {
		text = screen(text, width, height)
	} else if !o.json {
		text += "\n"
	}
	_, err = os.Stdout.WriteString(text)
	return err
}

// windowSize returns the size of the terminal, or 80 by 24 if it does not tell.
func windowSize() (width, height int) {
	if ws, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil && ws.Col > 0 && ws.Row > 1 {
		return int(ws.Col), int(ws.Row)
	}
	return 80, 24
}

// screen returns what writes a text over what a terminal shows. It is cut to the
// size of the terminal.
func screen(text string, width, height int) string {
	height-- // the last line stays free: an end of line there would scroll
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

// cut shortens a line to the given number of columns. The last column then shows
// that there is more. Escape sequences take no room, and colours are ended.
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
