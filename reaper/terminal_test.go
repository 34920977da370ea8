package reaper

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// A child is lent the foreground before its first instruction, and it comes
// back when the child is gone.
func TestTerminalIsLent(t *testing.T) {
	master, slave := openPTY(t)
	spec := play("lender")
	// Not by a Reaper: it does not make sessions. There is none now, so this may wait.
	pid, err := syscall.ForkExec(spec.Args[0], spec.Args, &syscall.ProcAttr{Env: spec.Env,
		Files: []uintptr{uintptr(slave), uintptr(slave), uintptr(slave)}, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true}})
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(slave)
	screen := readUntil(t, master, "meanwhile the child's: ", "at once the child's: ") // it has looked while the child is there
	if _, err := io.WriteString(master, "a line\n"); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(master) // EIO when the last one has closed the terminal
	screen = append(screen, rest...)
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 5 {
		t.Errorf("exit code %d, %v", status.ExitStatus(), err)
	}
	for _, want := range []string{"meanwhile the child's: true", "at once the child's: true", "after it ours: true"} {
		if !strings.Contains(string(screen), want) {
			t.Errorf("want %q on the terminal:\n%s", want, screen)
		}
	}
}

// readUntil reads until all the texts have come.
func readUntil(t *testing.T, from io.Reader, texts ...string) (all []byte) {
	t.Helper()
	piece := make([]byte, 1024)
	for _, text := range texts {
		for !strings.Contains(string(all), text) {
			n, err := from.Read(piece)
			if all = append(all, piece[:n]...); err != nil {
				t.Fatalf("no %q before %v in:\n%s", text, err, all)
			}
		}
	}
	return all
}

func openPTY(t *testing.T) (master *os.File, slave int) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		strict.Skip(t, "no terminals here: %v", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func TestNoTerminal(t *testing.T) {
	var none *Terminal
	if none.free() {
		t.Error("a terminal that is none was lent")
	}
	none.Close()
}
