package harness

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// A PTY is a terminal with the test at the keyboard.
type PTY struct {
	T      testing.TB
	master *os.File
	slave  *os.File
	Screen testkit.Output
	read   int // how much of the screen expect has passed
}

// OpenPTY makes a terminal of 24 lines and 80 columns.
func OpenPTY(t testing.TB) *PTY {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		strict.Skip(t, "no terminals here: %v", err)
	}
	p := &PTY{T: t, master: master}
	n, err := p.ioctlGet(unix.TIOCGPTN)
	if err == nil {
		err = p.ioctlSet(unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if p.slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends when the master is closed, below
		defer close(ended)
		_, _ = io.Copy(&p.Screen, master)
	}()
	t.Cleanup(func() {
		p.slave.Close()
		p.master.Close()
		<-ended
	})
	p.Resize(24, 80)
	return p
}

// control calls f with the master's descriptor. (Fd() would make it blocking,
// and Close would wait for the reader for ever.)
func (p *PTY) control(f func(fd int) error) error {
	conn, err := p.master.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func (p *PTY) ioctlGet(req uint) (n int, err error) {
	err = p.control(func(fd int) (err error) { n, err = unix.IoctlGetInt(fd, req); return err })
	return n, err
}

func (p *PTY) ioctlSet(req uint, n int) error {
	return p.control(func(fd int) error { return unix.IoctlSetPointerInt(fd, req, n) })
}

// Resize changes the window: the foreground gets SIGWINCH.
func (p *PTY) Resize(rows, columns uint16) {
	p.T.Helper()
	size := &unix.Winsize{Row: rows, Col: columns}
	err := p.control(func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
	if err != nil {
		p.T.Fatal(err)
	}
}

// Foreground returns the process group in the foreground.
func (p *PTY) Foreground() int {
	n, err := p.ioctlGet(unix.TIOCGPGRP)
	if err != nil {
		return -1
	}
	return n
}

// Send types. "\x03" is Ctrl-C, "\x1a" Ctrl-Z, "\x04" Ctrl-D, "\x1c" Ctrl-\.
func (p *PTY) Send(keys string) {
	p.T.Helper()
	if _, err := io.WriteString(p.master, keys); err != nil {
		p.T.Fatal(err)
	}
}

// Expect waits until the text is on the screen, after what was expected before.
func (p *PTY) Expect(text string) {
	p.T.Helper()
	testkit.Eventually(p.T, fmt.Sprintf("%q on the terminal", text), func() (any, bool) {
		got := p.Screen.String()[p.read:]
		at := strings.Index(got, text)
		if at < 0 {
			return fmt.Sprintf("%q", got), false
		}
		p.read += at + len(text)
		return nil, true
	})
}

// UseShell does at a prompt "ready> " what people do there, and exits with 42.
func UseShell(tty *PTY) {
	tty.Expect("ready> ")
	tty.Send("until [ \"$(stty size)\" = '24 80' ]; do :; done; stty size\n") // docker takes a moment
	tty.Expect("done; stty size\r\n")
	tty.Expect("24 80")
	tty.Resize(40, 120)
	tty.Send("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo resized\n") // docker takes a moment
	tty.Expect("resized\r\n")
	tty.Expect("ready> ")
	tty.Send("sh -c 'echo up; exec sleep 1000'\n")
	tty.Expect("up\r\n") // so the foreground is its own, and Ctrl-C is for it
	tty.Send("\x03")
	tty.Expect("ready> ")
	tty.Send("sh -c 'echo up; exec cat'\n")
	tty.Expect("up\r\n")
	tty.Send("one\n")
	tty.Expect("one\r\none\r\n")
	tty.Send("\x1a")
	tty.Expect("Stopped")
	tty.Expect("ready> ")
	tty.Send("fg\n")
	tty.Expect("cat'\r\n")
	tty.Send("two\n")
	tty.Expect("two\r\ntwo\r\n")
	tty.Send("\x03")
	tty.Expect("ready> ")
	tty.Send("exit 42\n")
}

// Shell starts an interactive shell on a terminal, and waits for its prompt.
func Shell(t *testing.T) (*PTY, *Process) {
	t.Helper()
	tty := OpenPTY(t)
	p := Start(t, Program{Args: []string{"bash", "--norc", "-i"}, TTY: tty, Env: []string{"PS1=ready> ", "TERM=dumb"}})
	tty.Expect("ready> ")
	return tty, p
}
