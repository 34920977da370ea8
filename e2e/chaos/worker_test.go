package chaos

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
)

// poolChild enters the cgroups that its first argument names, and a network namespace
// of its own, and becomes the pool.
var poolChild = harness.Child("chaosPool", func(args []string) int {
	for dir := range strings.FieldsSeq(args[0]) {
		if err := write(dir+"/cgroup.procs", "0"); err != nil {
			return harness.Failed(err)
		}
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return harness.Failed(err)
	}
	if err := harness.LoopbackUp(); err != nil {
		return harness.Failed(err)
	}
	return harness.Become(args[1:])
})

// The signals that make a worker misbehave.
const (
	sigEat    = syscall.Signal(35) // takes memory until it is killed
	sigBomb   = syscall.Signal(36) // starts processes as fast as it can, for a second
	sigDeaf   = syscall.Signal(37) // does not hear SIGTERM any more
	sigHangUp = syscall.Signal(38) // closes its descriptor and lives on
	sigLie    = syscall.Signal(39) // answers what it was not asked
	sigOrphan = syscall.Signal(40) // leaves processes behind
)

// workerChild notes each message in the book before it handles it. Its second
// argument is how messages are delivered.
var workerChild = harness.Child("chaosWorker", func(args []string) int {
	book, err := os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return harness.Failed(err)
	}
	messages := os.NewFile(3, "messages")
	in, tagged := bufio.NewReader(messages), args[1] == "tagged"
	go misbehave(messages, tagged) // ends with the process
	// As many at a time as it may handle, the first ones first: these are to blame if it dies.
	room := make(chan struct{}, atoi(os.Getenv("POOLINIT_CONCURRENCY")))
	for {
		f, err := readFrame(in, tagged)
		if err != nil {
			return 0
		}
		if tagged && f.tag == 0 {
			continue
		}
		if tagged {
			room <- struct{}{}
			go func() { // ends with its answer, or with the process
				handle(book, messages, f)
				<-room
			}()
		} else {
			handle(book, messages, f)
		}
	}
})

// hungUp is set when the worker has closed its descriptor: what it has read by then, others get.
var hungUp atomic.Bool

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func misbehave(messages *os.File, tagged bool) {
	told := make(chan os.Signal, 1) // one misdeed at a time
	signal.Notify(told, sigEat, sigBomb, sigDeaf, sigHangUp, sigLie, sigOrphan)
	for sig := range told {
		switch sig {
		case sigEat:
			os.Exit(harness.Deeds[harness.EatsDeed](nil))
		case sigBomb:
			for end := time.Now().Add(time.Second); time.Now().Before(end); {
				if startOrphan("0.3") != nil {
					time.Sleep(time.Millisecond)
				}
			}
		case sigDeaf:
			signal.Ignore(syscall.SIGTERM)
		case sigHangUp:
			hungUp.Store(true)
			_ = unix.Shutdown(3, unix.SHUT_RDWR)
			messages.Close()
			time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
			os.Exit(0)
		case sigLie:
			if !tagged { // without tags a lie is a valid answer
				continue
			}
			_, _ = messages.Write(frame{tag: 1<<53 - 1, body: "nobody asked"}.bytes(true))
		case sigOrphan:
			for range 3 {
				_ = startOrphan("0.5")
			}
		}
	}
}

// startOrphan starts a process in a session of its own that ends by itself, and does not wait for it.
func startOrphan(seconds string) error {
	cmd := exec.Command("sh", "-c", "sleep "+seconds+" & exit 0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Wait()
}

func handle(book, messages *os.File, f frame) {
	if hungUp.Load() {
		return
	}
	fmt.Fprintf(book, "%d %s\n", monotonic(), idOf(f.body))
	switch mood, _, _ := strings.Cut(f.body, " "); mood {
	case "crash":
		os.Exit(3)
	case "hang":
		select {}
	case "fail":
		f.failed, f.body = true, "broken: on purpose"
	case "slow":
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
	default:
		time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
	}
	_, _ = messages.Write(f.bytes(f.tag != 0))
}

// monotonic is a clock that all processes of the machine share.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// A message's body is its mood, its number, and perhaps ballast. The first two are
// its id.
func idOf(body string) string {
	mood, rest, _ := strings.Cut(body, " ")
	number, _, _ := strings.Cut(rest, " ")
	return mood + " " + number
}

// A frame is a message or an answer.
type frame struct {
	failed bool
	tag    uint64
	body   string
}

func (f frame) bytes(tagged bool) []byte {
	n := uint32(len(f.body))
	if tagged {
		n += 8
	}
	if f.failed {
		n |= 1 << 31
	}
	b := binary.BigEndian.AppendUint32(nil, n)
	if tagged {
		b = binary.BigEndian.AppendUint64(b, f.tag)
	}
	return append(b, f.body...)
}

func readFrame(in io.Reader, tagged bool) (f frame, err error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return f, err
	}
	n := binary.BigEndian.Uint32(head[:])
	f.failed = n>>31 == 1
	b := make([]byte, n&^(3<<30))
	if _, err := io.ReadFull(in, b); err != nil {
		return f, err
	}
	if tagged {
		if len(b) < 8 {
			return f, errors.New("a frame without a tag")
		}
		f.tag, b = binary.BigEndian.Uint64(b), b[8:]
		if n>>30&1 == 1 { // the meta
			if len(b) < 4 || len(b)-4 < int(binary.BigEndian.Uint32(b)) {
				return f, errors.New("a frame with a broken meta")
			}
			b = b[4+binary.BigEndian.Uint32(b):]
		}
	}
	f.body = string(b)
	return f, nil
}
