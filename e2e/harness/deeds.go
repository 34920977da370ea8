package harness

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Deeds are what a WorkerChild can do after it has said that it is up. Each gets
// the words that follow its name, and returns the exit code.
var Deeds = map[string]func(words []string) int{
	"obey":   func([]string) int { return Forever() },
	"ignore": func([]string) int { signal.Ignore(syscall.SIGTERM); fmt.Println("deaf"); return Forever() },
	"exit":   func(words []string) int { code, _ := strconv.Atoi(words[0]); return code },
	"die": func(words []string) int {
		n, _ := strconv.Atoi(words[0])
		setDisposition(syscall.Signal(n), false) // else the Go runtime prints a stack and exits with 2
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		return Forever()
	},
}

// WorkerChild is a worker: it prints its number and PID, and then does the deed of
// its first argument.
var WorkerChild = Child("worker", func(words []string) int {
	fmt.Printf("up worker=%s generation=%s pid=%d\n",
		os.Getenv("POOLINIT_WORKER_ID"), os.Getenv("POOLINIT_GENERATION"), os.Getpid())
	do := Deeds[words[0]]
	if do == nil {
		return Failed(fmt.Errorf("no deed is called %q", words[0]))
	}
	return do(words[1:])
})

// Deed adds a deed, and returns its name.
func Deed(name string, do func(words []string) int) string {
	Deeds[name] = do
	return name
}

// EatsDeed takes memory until the kernel kills it.
var EatsDeed = Deed("eats", func([]string) int {
	var eaten [][]byte
	for {
		bite := make([]byte, 1<<20)
		for i := 0; i < len(bite); i += 4096 {
			bite[i] = 1
		}
		eaten = append(eaten, bite)
		if len(eaten) > 4096 {
			return 1
		}
	}
})

// Forever never returns: a signal has to end the process.
func Forever() int {
	for {
		time.Sleep(time.Hour)
	}
}

// AwaitFile returns when the file is there.
func AwaitFile(path string) {
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
}

// SdNotify sends the text to NOTIFY_SOCKET, as sd_notify(3) does.
func SdNotify(text string) error {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(text))
	return err
}

// ServeReady says that it is ready, with a status, and then never returns.
func ServeReady() int {
	if err := SdNotify("STATUS=serving\nREADY=1"); err != nil {
		return Failed(err)
	}
	return Forever()
}

// A Gate is a file that workers wait for before they are ready. A reload lasts as
// long as the gate is shut.
type Gate string

// Open lets the workers become ready.
func (g Gate) Open(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(string(g), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (g Gate) shut(t *testing.T) {
	t.Helper()
	if err := os.Remove(string(g)); err != nil {
		t.Fatal(err)
	}
}

// gatedDeed says that it is ready as soon as the file of its argument is there.
var gatedDeed = Deed("gated", func(words []string) int {
	AwaitFile(words[0])
	return ServeReady()
})

// StartGated starts n workers that pass the gate, and shuts it behind them.
func StartGated(t *testing.T, n int, flags ...string) (p Pool, g Gate) {
	t.Helper()
	g = Gate(filepath.Join(t.TempDir(), "gate"))
	g.Open(t)
	p = StartRun(t, Program{}, append(append(flags, "-n", fmt.Sprint(n), "--ready", "notify"), "--", gatedDeed, string(g))...)
	p.AwaitWorkers(n)
	p.ExpectReady(n)
	g.shut(t)
	return p, g
}

// InstallScript writes a program, or replaces it by another version. A text of ""
// is one that may not be executed.
func InstallScript(t testing.TB, path, text string) {
	t.Helper()
	mode := os.FileMode(0o755)
	if text == "" {
		mode = 0o644
	}
	// A process that another test forks meanwhile would have the file open for
	// writing, and the kernel executes no such file.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path+".new", []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
