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
// body. Some messages make it hang, some make it refuse or fail.
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
		switch {
		case strings.HasSuffix(string(body), "hang"):
			select {}
		case strings.HasSuffix(string(body), "fail"):
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
	sent, replied, failed, stopping, unanswered, late atomic.Int64
	stop                                              atomic.Bool // the pool was told to stop

	mu    sync.Mutex
	good  map[string]bool // bodies that were answered with a reply
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
			body := fmt.Sprintf("%d-%d %s", id, n, mood())
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

// mood is what a message asks of its worker.
func mood() string {
	switch n := rand.IntN(2000); {
	case n == 0:
		return "hang"
	case n < 20:
		return "fail"
	}
	return "ok"
}

func (y *tally) answered(want, got string, failed bool, stopped *atomic.Bool) {
	switch {
	case failed && strings.HasPrefix(got, "stopping: "):
		y.stopping.Add(1)
		stopped.Store(true)
	case failed:
		y.failed.Add(1)
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
	for _, attempts := range []int{1, 3} {
		t.Run(fmt.Sprintf("attempts=%d", attempts), func(t *testing.T) { chaos(t, attempts) })
	}
}

func chaos(t *testing.T, attempts int) {
	addr, book := harness.FreePort(t), filepath.Join(t.TempDir(), "book")
	p := harness.Start(t, harness.Program{Child: chaosWorker, Args: []string{
		harness.Binary(t), "-n", "4", "--listen", "tcp://" + addr + "?reply=always&idle=0s", "--attempts", fmt.Sprint(attempts),
		"--message-timeout", "200ms", "--restart-delay", "1ms", "--restart-delay-max", "20ms", "--give-up", "0", "--", harness.Self(t), book,
	}})
	testkit.Eventually(t, "the port is open", func() (any, bool) {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
		}
		return p.Stderr.String(), err == nil
	})
	y := &tally{good: make(map[string]bool)}
	var clients sync.WaitGroup
	for id := range 8 {
		clients.Go(func() { y.client(t, addr, id) })
	}
	torment(t, p, chaosTime(t))
	testkit.Eventually(t, "a hundred replies", func() (any, bool) { return y.replied.Load(), y.replied.Load() >= 100 })
	y.stop.Store(true)
	p.Signal(syscall.SIGTERM)
	clients.Wait()
	code := p.Wait()
	y.judge(t, p, code, readBook(t, book), attempts)
}

// torment kills a worker every now and then, and reloads the pool.
func torment(t *testing.T, p *harness.Process, long time.Duration) {
	self := p.Self()
	end := time.After(long)
	kill, reload := time.NewTicker(15*time.Millisecond), time.NewTicker(400*time.Millisecond)
	defer kill.Stop()
	defer reload.Stop()
	for {
		select {
		case <-end:
			return
		case <-reload.C:
			_ = syscall.Kill(self, syscall.SIGUSR1)
		case <-kill.C:
			if workers := p.List(); len(workers) > 0 {
				if w := workers[rand.IntN(len(workers))]; w.PID != self {
					_ = syscall.Kill(w.PID, syscall.SIGKILL) // gone already: the next one
				}
			}
		}
	}
}

// readBook returns how often each message was begun.
func readBook(t *testing.T, path string) map[string]int {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	book := make(map[string]int)
	for line := range strings.Lines(string(text)) {
		book[strings.TrimSuffix(line, "\n")]++
	}
	return book
}

func (y *tally) judge(t *testing.T, p *harness.Process, code int, book map[string]int, attempts int) {
	t.Logf("sent %d: replied %d, failed %d, stopping %d, unanswered %d, late %d; exit code %d",
		y.sent.Load(), y.replied.Load(), y.failed.Load(), y.stopping.Load(), y.unanswered.Load(), y.late.Load(), code)
	for i, wrong := range y.wrong {
		if i == 10 {
			break
		}
		t.Error(wrong)
	}
	if sum := y.replied.Load() + y.failed.Load() + y.stopping.Load() + y.late.Load(); sum != y.sent.Load() {
		t.Errorf("%d answers to %d messages", sum, y.sent.Load())
	}
	for body := range y.good {
		if book[body] == 0 {
			t.Errorf("%q was answered, but no worker had it", body)
		}
	}
	most := attempts
	if attempts > 1 { // a reload, or the stop, that ends a worker is no attempt
		most += strings.Count(p.Stderr.String(), `"message":"reload started"`) + 1
	}
	for body, n := range book {
		if n > most {
			t.Errorf("%q was delivered %d times, and with --attempts %d it may be %d times at most", body, n, attempts, most)
		}
	}
	summary := regexp.MustCompile(`stopped: handled (\d+), `).FindStringSubmatch(p.Stderr.String())
	if summary == nil || summary[1] != fmt.Sprint(y.replied.Load()) {
		t.Errorf("the last line says %q, and %d were answered with a reply", summary, y.replied.Load())
	}
	if code != 0 && code != 137 {
		t.Errorf("exit code %d\n%.3000s", code, p.Stderr.String())
	}
}

// A second stop signal does not wait for messages.
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
	p.Signal(syscall.SIGINT)
	if code := p.Wait(); code != 137 {
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
