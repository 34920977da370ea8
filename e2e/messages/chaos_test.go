package messages

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// chaosTime is how long the chaos lasts: CHAOS=10m by make chaos.
func chaosTime(t *testing.T) time.Duration {
	if s := os.Getenv("CHAOS"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	return 2 * time.Second
}

// chaosWorker notes each message in a file before it answers with the same
// body. Some messages make it fail, hang or crash.
var chaosWorker = harness.Child("chaosWorker", func(args []string) int {
	book, err := os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	messages := os.NewFile(3, "messages")
	in := bufio.NewReader(messages)
	for {
		body, _, err := harness.ReadFrame(in)
		if err != nil {
			return 0
		}
		fmt.Fprintf(book, "%s\n", body)
		answer := uint32(len(body))
		switch moodOf(string(body)) {
		case "hang":
			select {}
		case "crash":
			os.Exit(3)
		case "fail":
			body = []byte("broken: on purpose")
			answer = uint32(len(body)) | 1<<31
		}
		if _, err := messages.Write(append(binary.BigEndian.AppendUint32(nil, answer), body...)); err != nil {
			return 0
		}
	}
})

// A tally is what the clients of the chaos have seen.
type tally struct {
	chaosCase
	sent, replied, failed, stopping, unanswered, late atomic.Int64
	poisons                                           atomic.Int64 // of those that failed: messages that crash their worker
	stop                                              atomic.Bool  // the pool was told to stop

	mu    sync.Mutex
	good  map[string]bool // bodies that were answered with a reply
	bad   map[string]bool // poisons that were given up
	wrong []string
}

func (y *tally) complain(format string, args ...any) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.wrong = append(y.wrong, fmt.Sprintf(format, args...))
}

// client keeps some messages in flight on one connection, until the pool stops.
// What is on the way when the connection ends is unanswered.
func (y *tally) client(t *testing.T, addr string, id int) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		y.complain("client %d: %v", id, err)
		return
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(chaosTime(t) + 2*testkit.Patience))
	flight := make(chan string, 16) // as many as are on the way at a time
	var stopped, silent atomic.Bool
	var writer sync.WaitGroup
	writer.Go(func() {
		defer close(flight)
		last := time.Now()
		for n := 0; !stopped.Load(); n++ {
			body := fmt.Sprintf("%s %d-%d", y.mix.mood(), id, n)
			flight <- body
			y.sent.Add(1)
			// A client that is silent for 300 ms during a stop is not waited for: where the
			// machine stands still, that happens to one that is not.
			if y.stop.Load() && time.Since(last) > 200*time.Millisecond {
				silent.Store(true)
			}
			last = time.Now()
			if harness.WriteFrame(nc, body) != nil {
				return
			}
		}
		_ = nc.(*net.TCPConn).CloseWrite()
	})
	in := bufio.NewReader(nc)
	for want := range flight {
		body, failed, err := harness.ReadFrame(in)
		if err != nil {
			stopped.Store(true)
			if silent.Load() {
				y.late.Add(1)
				continue
			}
			y.unanswered.Add(1)
			y.complain("client %d: %q is not answered: %v", id, want, err)
			continue
		}
		y.answered(want, string(body), failed, &stopped)
	}
	writer.Wait()
	if _, _, err := harness.ReadFrame(in); !errors.Is(err, io.EOF) && !silent.Load() {
		y.complain("client %d: after the last answer: %v", id, err)
	}
}

func (y *tally) answered(want, got string, failed bool, stopped *atomic.Bool) {
	switch {
	case failed && strings.HasPrefix(got, "stopping: "):
		y.stopping.Add(1)
		stopped.Store(true)
		if !y.stop.Load() {
			y.complain("%q was answered %q before the stop", want, got)
		}
	case failed:
		y.failed.Add(1)
		y.blamed(want, got)
	case got != want:
		y.complain("%q was answered %q", want, got)
	default:
		y.replied.Add(1)
		y.mu.Lock()
		y.good[want] = true
		y.mu.Unlock()
	}
}

// Clients that are owed an answer for every message get exactly one, while
// workers are killed and hang, the pool is reloaded, and at last stopped.
func TestChaos(t *testing.T) {
	for _, c := range chaosCases {
		t.Run(c.name, func(t *testing.T) { chaos(t, c) })
	}
}

func chaos(t *testing.T, c chaosCase) {
	addr, book := harness.FreePort(t), filepath.Join(t.TempDir(), "book")
	url := "tcp://" + addr + "?idle=0s&reply=always"
	if c.tagged {
		url = "tcp://" + addr + "?idle=0s&tagged=true"
	}
	prog, command := harness.Program{Child: c.child}, harness.SDKWorker
	if c.child != "" {
		command = harness.Self
	}
	p := harness.StartSource(t, prog, url, append(c.flags, "-n", "4", "--attempts", fmt.Sprint(c.attempts),
		"--restart-delay", "1ms", "--restart-delay-max", "20ms", "--", command(t), book)...)
	y := &tally{chaosCase: c, good: make(map[string]bool), bad: make(map[string]bool)}
	client := y.client
	if c.tagged {
		client = y.taggedClient
	}
	var clients sync.WaitGroup
	for id := range 8 {
		clients.Go(func() { client(t, addr, id) })
	}
	c.torment(t, p, chaosTime(t))
	testkit.Eventually(t, "a hundred replies, and poison", func() (any, bool) {
		replied, poisons := y.replied.Load(), y.poisons.Load()
		return fmt.Sprint(replied, poisons), replied >= 100 && (poisons > 0 || c.mix.crash == 0)
	})
	if c.operated {
		operate(t, p, []string{"pause"}) // the stop ends it
	}
	y.stop.Store(true)
	p.Signal(syscall.SIGTERM)
	clients.Wait()
	code := p.Wait()
	y.judge(t, p, code, readBook(t, book))
}

// torment kills a worker every now and then, reloads the pool, and does what an
// operator may do.
func (c chaosCase) torment(t *testing.T, p *harness.Process, long time.Duration) {
	end := time.After(long)
	kill, reload, live := time.NewTicker(15*time.Millisecond), time.NewTicker(400*time.Millisecond), time.NewTicker(70*time.Millisecond)
	defer kill.Stop()
	defer reload.Stop()
	defer live.Stop()
	if !c.kills {
		kill.Stop()
	}
	if !c.operated {
		live.Stop()
	}
	for n := 0; ; {
		select {
		case <-end:
			if c.operated {
				p.Inside("resume").Says(t, 0)
			}
			return
		case <-reload.C:
			_ = syscall.Kill(p.Self(), syscall.SIGUSR1)
		case <-kill.C:
			killOne(p)
		case <-live.C:
			if operate(t, p, operations[n%len(operations)]) {
				n++
			}
		}
	}
}

// operate does what an operator may do, and reports whether the pool did it: no pool
// is scaled during a reload.
func operate(t *testing.T, p *harness.Process, command []string) bool {
	got := p.Inside(command...)
	if command[0] == "scale" && strings.Contains(got.Stderr, "a reload is running") {
		return false
	}
	got.Says(t, 0)
	return true
}

// killOne kills a worker. It may be gone already: the next one, then.
func killOne(p *harness.Process) {
	if workers := p.List(); len(workers) > 0 {
		if w := workers[rand.IntN(len(workers))]; w.PID != p.Self() {
			_ = syscall.Kill(w.PID, syscall.SIGKILL)
		}
	}
}

// readBook returns how often each message was begun; nil if the worker keeps no book.
func readBook(t *testing.T, path string) map[string]int {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	book := make(map[string]int)
	for line := range strings.Lines(string(text)) {
		book[strings.TrimSuffix(line, "\n")]++
	}
	return book
}

func (y *tally) judge(t *testing.T, p *harness.Process, code int, book map[string]int) {
	t.Logf("sent %d: replied %d, failed %d (%d poisons), stopping %d, unanswered %d, late %d; exit code %d", y.sent.Load(), y.replied.Load(),
		y.failed.Load(), y.poisons.Load(), y.stopping.Load(), y.unanswered.Load(), y.late.Load(), code)
	for i, wrong := range y.wrong {
		if i == 10 {
			break
		}
		t.Error(wrong)
	}
	if sum := y.replied.Load() + y.failed.Load() + y.stopping.Load() + y.late.Load(); sum != y.sent.Load() {
		t.Errorf("%d answers to %d messages", sum, y.sent.Load())
	}
	if y.child != "" {
		y.judgeBook(t, p, book)
	}
	summary := regexp.MustCompile(`stopped: handled (\d+), `).FindStringSubmatch(p.Stderr.String())
	if summary == nil || summary[1] != fmt.Sprint(y.replied.Load()) {
		t.Errorf("the last line says %q, and %d were answered with a reply", summary, y.replied.Load())
	}
	if code != 0 && code != 137 {
		t.Errorf("exit code %d\n%.3000s", code, p.Stderr.String())
	}
}

// judgeBook holds what the clients got against what the workers had.
func (y *tally) judgeBook(t *testing.T, p *harness.Process, book map[string]int) {
	for body := range y.good {
		if book[body] == 0 {
			t.Errorf("%q was answered, but no worker had it", body)
		}
	}
	for body := range y.bad {
		if book[body] < y.attempts {
			t.Errorf("%q was given up after %d attempts, and --attempts is %d", body, book[body], y.attempts)
		}
	}
	most := y.attempts + y.free
	if y.attempts > 1 { // a worker that the pool ends is no attempt
		pool := harness.PoolOf(p)
		most += pool.Count("reload started") + pool.Count("number of workers set") + 1
	}
	for body, n := range book {
		if n > most {
			t.Errorf("%q was delivered %d times, and with --attempts %d it may be %d times at most", body, n, y.attempts, most)
		}
	}
}

// A second SIGINT does not wait for messages.
func TestSecondStopDoesNotDrain(t *testing.T) {
	addr, book := harness.FreePort(t), filepath.Join(t.TempDir(), "book")
	p := harness.Start(t, harness.Program{Child: chaosWorker, Args: []string{
		harness.Binary(t), "--listen", "tcp://" + addr + "?reply=always", "--stop-timeout", "10m", "--", harness.Self(t), book,
	}})
	p.Stderr.Expect(t, "worker started")
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	// In one piece: when the first is with the worker the others have arrived, too.
	if _, err := io.WriteString(nc, strings.Repeat("\x00\x00\x00\x04hang", 3)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the worker hangs", func() (any, bool) {
		text, err := os.ReadFile(book)
		return err, len(text) > 0
	})
	p.Signal(syscall.SIGTERM)
	p.Stderr.Expect(t, `"message":"stopping"`)
	p.StopNow()
	if code := p.Wait(); code != 75 {
		t.Errorf("exit code %d\n%s", code, p.Stderr.String())
	}
	p.Stderr.Expect(t, "lost 3, killed 1, ")
	_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
	for range 3 {
		if body, failed, err := harness.ReadFrame(nc); !failed {
			t.Errorf("answered %q, %v", body, err)
		}
	}
}
