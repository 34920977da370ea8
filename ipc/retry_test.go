package ipc_test

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
	"github.com/poolinit/poolinit/reaper/awake"
)

func failure(text string) []byte {
	f := frame.Append(nil, []byte(text))
	frame.MarkFailure(f)
	return f
}

// The second delivery is at once, the third after the delay, and each one more after
// twice that, +-20 %.
func TestRetryDelay(t *testing.T) {
	const delay = 50 * time.Millisecond
	w := ipctest.NewWorld(t, func(c *ipc.Config) {
		c.Window, c.Attempts, c.RetryDelay, c.RetryDelayMax = 1, 5, delay, 3*delay
	})
	at := make(chan time.Time, 5) // 5: the test looks later
	w.Worker(ipctest.Answering(func([]byte) []byte { at <- time.Now(); return failure("busy: not yet") }))
	desk := w.NewDesk(nil)
	desk.Send("a")
	desk.Want("a", "!given-up: after 5 attempts: busy: not yet")
	last := <-at
	for i, least := range []time.Duration{0, delay, 2 * delay, 3 * delay} {
		next := <-at
		took := next.Sub(last)
		last = next
		if took < least*4/5 || took > least*6/5+5*time.Second {
			t.Errorf("%s before delivery %d", took, i+2)
		}
	}
	if n := desk.Stats.Retried.Load(); n != 4 || desk.Stats.GivenUp.Load() != 1 {
		t.Errorf("%d retried", n)
	}
}

// What a worker says with a failure may be long: the client gets the beginning, and
// the log and the spool get less of it.
func TestLongFailure(t *testing.T) {
	for name, text := range map[string]string{
		"letters": strings.Repeat("x", 2<<20),
		"umlauts": "x" + strings.Repeat("ü", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			records := make(chan string, 1)
			w := ipctest.NewWorld(t, func(c *ipc.Config) {
				c.MaxMessage, c.Attempts = 4<<20, 2
				c.GivenUp = func(_ *ipc.Delivery, reason string, done func()) { records <- reason; done() }
			})
			w.Worker(ipctest.Answering(func([]byte) []byte { return failure("broken: " + text) }))
			desk := w.NewDesk(nil)
			desk.Send("a")
			ipctest.Eventually(t, "a is given up", func() bool { return desk.Stats.GivenUp.Load() == 1 && len(records) == 1 })
			ended, _, _ := desk.Ended()
			const begins = "after 2 attempts: broken: "
			if got := ended["a"]; len(got) < 4<<10-30 || len(got) > 4<<10+50 || !strings.HasPrefix(got, "!given-up: "+begins+text[:50]) || !utf8.ValidString(got) {
				t.Errorf("the client gets %d bytes: %.100q", len(got), got)
			}
			record := <-records
			if len(record) < 1<<10 || len(record) > 1<<10+100 || !strings.HasPrefix(record, begins) || !utf8.ValidString(record) ||
				!strings.HasSuffix(record, "... (4160 bytes)") && !strings.HasSuffix(record, "... (4159 bytes)") {
				t.Errorf("the spool gets %d bytes: %q", len(record), record)
			}
			if n := len(w.Log.Text()); n > 8<<10 {
				t.Errorf("%d bytes are logged", n)
			}
		})
	}
}

// Messages that are given up have a line each, but not if they are many.
func TestManyGivenUp(t *testing.T) {
	const all = 500
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Attempts = 1 })
	w.Worker(ipctest.Answering(func([]byte) []byte { return failure("broken: on purpose") }))
	desk := w.NewDesk(nil)
	for i := range all {
		desk.Send(fmt.Sprint(i))
	}
	ipctest.Eventually(t, "all are given up", func() bool { return desk.Stats.GivenUp.Load() == all })
	if n := strings.Count(w.Log.Text(), "message given up"); n < 20 || n > all/2 {
		t.Errorf("%d lines", n)
	}
}

// What a worker asks for with retry is an attempt, after exactly that time.
func TestRetryOfTheWorker(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		max    time.Duration
		lane   func(*ipc.Lane)
		want   string
	}{
		"in time":             {"retry: 20ms: busy", time.Second, nil, "ok"},
		"at once":             {"retry: 0s: busy", time.Second, nil, "ok"},
		"without a text":      {"retry: 20ms", time.Second, nil, "ok"},
		"too long":            {"retry: 1h: busy", time.Second, nil, "!retry: 1h: busy"},
		"too long, no client": {"retry: 1h: busy", time.Second, func(l *ipc.Lane) { l.Unheard = true }, "!given-up: retry: 1h: busy"},
		"no time":             {"retry: soon: busy", 0, nil, "ok"},
		"before now":          {"retry: -1s: busy", 0, nil, "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Attempts, c.RetryDelay, c.RetryDelayMax = 2, 0, tt.max })
			tries := 0
			w.Worker(ipctest.Answering(func([]byte) []byte {
				if tries++; tries == 1 {
					return failure(tt.answer)
				}
				return frame.Append(nil, []byte("ok"))
			}))
			desk := w.NewDesk(tt.lane)
			desk.Send("a")
			desk.Want("a", tt.want)
		})
	}
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Attempts, c.RetryDelayMax = 2, time.Second })
	w.Worker(ipctest.Answering(func([]byte) []byte { return failure("retry: 1ms: busy") }))
	desk := w.NewDesk(nil)
	desk.Send("a")
	desk.Want("a", "!given-up: after 2 attempts: retry: 1ms: busy")
}

// Retries that wait have half of the room. Beyond that the client is told, if the
// worker asked for the delay, and otherwise the message is given up.
func TestWaitingRetriesAreBounded(t *testing.T) {
	for answer, want := range map[string]string{"retry: 1h: busy": "!retry: 1h: busy", "busy: no": "!given-up: after 2 attempts: busy: no"} {
		w := ipctest.NewWorld(t, func(c *ipc.Config) {
			c.Window, c.QueueMessages, c.Attempts, c.RetryDelay, c.RetryDelayMax = 1, 8, 3, 2*time.Hour, 2*time.Hour
		})
		desk := w.NewDesk(nil)
		desk.Send(names("m", 6)...)
		w.Worker(ipctest.Answering(func([]byte) []byte { return failure(answer) }))
		desk.Want("m4", want, "m5", want)
		s := w.Q.Stats(1)
		if s.Delayed != 4 || s.Messages != 4 || s.Later != 4 {
			t.Errorf("%d are delayed, %d wait, %d later", s.Delayed, s.Messages, s.Later)
		}
		all, _ := w.Q.List(10)
		for _, m := range all {
			if m.Due < 30*time.Minute || m.Attempts == 0 || m.Source != "tcp://desk" || m.Bytes != 2 {
				t.Errorf("%+v", m)
			}
		}
		w.Q.Until(time.Now().Add(time.Minute))
		if n, _, _ := w.Q.Depth(); n != 0 {
			t.Errorf("%d wait beyond the end", n)
		}
		if got, _, _ := desk.Ended(); !strings.HasPrefix(got["m0"], "!interrupted: ") {
			t.Errorf("answered %s", got["m0"])
		}
		desk.Send("late") // one that would be due after the end, as well
		ipctest.Eventually(t, "it ends", func() bool { got, _, _ := desk.Ended(); return strings.HasPrefix(got["late"], "!interrupted: ") })
	}
}

// A worker that fails at once beside others that take a while: each message that it
// fails goes to another one, and it gets few.
func TestBrokenWorkerBesideOthers(t *testing.T) {
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Attempts = 2 })
	w.Worker(ipctest.Answering(func([]byte) []byte { return failure("error: gone away") }))
	for range 3 {
		w.Worker(ipctest.Answering(func(b []byte) []byte { time.Sleep(time.Millisecond); return ipctest.Echo(b) }))
	}
	desk, n := w.NewDesk(nil), 600
	desk.Send(names("m", n)...)
	ipctest.Eventually(t, "all are answered", func() bool { got, _, _ := desk.Ended(); return len(got) == n })
	if given := desk.Stats.GivenUp.Load(); given > 0 {
		t.Errorf("%d given up", given)
	}
	s := w.Q.Stats(4)
	if failed := s.Workers[0].Failed; failed < 5 || failed > 60 || !s.Workers[0].Failing {
		t.Errorf("the broken worker had %d messages, failing %v", failed, s.Workers[0].Failing)
	}
	if n := strings.Count(w.Log.Text(), "worker fails every message"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// If all fail, the messages are to blame: nobody rests.
func TestBadMessagesSlowNobodyDown(t *testing.T) {
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Attempts = 1 })
	for range 2 {
		w.Worker(ipctest.Answering(func([]byte) []byte { return failure("error: bad") }))
	}
	desk, began := w.NewDesk(nil), time.Now()
	desk.Send(names("m", 500)...)
	ipctest.Eventually(t, "all are answered", func() bool { got, _, _ := desk.Ended(); return len(got) == 500 })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestMaxFailures(t *testing.T) {
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Attempts, c.MaxFailures, c.Window = 1, 3, 1 })
	worker := w.Worker(ipctest.Answering(func(b []byte) []byte {
		if strings.HasPrefix(string(b), "bad") {
			return failure("error: bad")
		}
		return ipctest.Echo(b)
	}))
	desk := w.NewDesk(nil)
	desk.Send("bad1", "bad2", "good", "bad3", "bad4")
	ipctest.Eventually(t, "all are answered", func() bool { got, _, _ := desk.Ended(); return len(got) == 5 })
	select {
	case ask := <-worker.Asks():
		t.Fatalf("asks for %s after two in a row", ask)
	default:
	}
	desk.Send("bad5")
	if ask := <-worker.Asks(); ask != ipc.AskFailing {
		t.Errorf("asks for %s", ask)
	}
}

// A worker that ends with its only message unread is not the message's fault, twice.
func TestUnreadIsFree(t *testing.T) {
	for attempts, want := range map[int]string{1: "!given-up: it ended", 2: "a"} {
		w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Window, c.Attempts = 1, attempts })
		desk := w.NewDesk(nil)
		desk.Send("a")
		for i := range 3 {
			c, sock := w.NewChannel(i)
			c.Serve(true, time.Time{})
			ipctest.Eventually(t, "it has the message", func() bool { _, _, n := w.Q.Depth(); return n == 1 })
			sock.Close()
			c.Close("it ended")
			if got, _, _ := desk.Ended(); (len(got) == 1) != (i == 2 && attempts == 1) {
				t.Fatalf("after %d deaths: %q", i+1, got)
			}
		}
		w.Worker(ipctest.Answering(ipctest.Echo))
		desk.Want("a", want)
	}
}

// One that answers a message and ends has the next one unread: that goes on to
// others, also with one attempt (php --limit=1 and the like).
func TestWorkersOfOneMessage(t *testing.T) {
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Attempts = 1 })
	desk, n := w.NewDesk(nil), 60
	desk.Send(names("m", n)...)
	for i := range 1000 {
		if got, _, _ := desk.Ended(); len(got) == n {
			break
		}
		c, sock := w.NewChannel(0)
		c.Serve(false, time.Time{})
		if body, _, err := ipctest.ReadFrame(sock); err == nil {
			_, _ = sock.Write(frame.Append(nil, body))
		} else {
			t.Fatal(i, err)
		}
		if i%2 == 0 { // it has got the next one by then, or not
			ipctest.Eventually(t, "it is answered", func() bool { got, _, _ := desk.Ended(); return len(got) > i })
		}
		sock.Close()
		c.Close("it ended")
	}
	got, _, _ := desk.Ended()
	for body, result := range got {
		if body != result {
			t.Errorf("%s: %s", body, result)
		}
	}
	if len(got) != n {
		t.Errorf("%d of %d were answered", len(got), n)
	}
}

// A worker that may still be starting is fed last and with one message, until it has
// answered or has said that it is ready.
func TestNewborn(t *testing.T) {
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Window = 4 })
	desk := w.NewDesk(nil)
	newborn, sock := w.NewChannel(1)
	t.Cleanup(func() { newborn.Close("the test is over"); sock.Close() })
	newborn.Serve(false, time.Time{})
	release := make(chan bool)
	w.Worker(ipctest.Answering(func(b []byte) []byte { <-release; return ipctest.Echo(b) }))
	desk.Send(names("m", 7)...)
	s := w.Q.Stats(2)
	if s.Workers[0].InHand != 4 || s.Workers[1].InHand != 1 || s.Messages != 2 || !s.Workers[1].Newborn || s.Workers[0].Newborn {
		t.Errorf("%+v", s.Workers)
	}
	_, _, _ = ipctest.ReadFrame(sock)
	if _, err := sock.Write(failure("error: not this one")); err != nil {
		t.Fatal(err)
	}
	ipctest.Eventually(t, "it is answered", func() bool { return newborn.Life().Answered })
	if ipctest.IsClosed(newborn.Answered()) || !w.Q.Stats(2).Workers[1].Newborn {
		t.Error("a failure makes it ready")
	}
	body, _, _ := ipctest.ReadFrame(sock)
	if len(body) == 0 {
		t.Error("it got nothing more")
	}
	_, _ = sock.Write(ipctest.Echo(body))
	<-newborn.Answered()
	if l := newborn.Life(); l.LastAnswer.IsZero() || time.Since(l.LastAnswer) > time.Minute || l.Held {
		t.Errorf("%+v", l)
	}
	if w.Q.Stats(2).Workers[1].Newborn {
		t.Error("an answer does not make it ready")
	}
	close(release)
	said, other := w.NewChannel(2)
	t.Cleanup(func() { said.Close("the test is over"); other.Close() })
	said.Serve(false, time.Time{})
	said.MarkReady()
	if w.Q.Stats(3).Workers[2].Newborn {
		t.Error("it said that it is ready")
	}
}

// The message timeout of a worker that may still be starting counts from its grace.
func TestTimeoutGrace(t *testing.T) {
	const grace = 300 * time.Millisecond
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.MessageTimeout, c.Attempts = 20*time.Millisecond, 1 })
	desk := w.NewDesk(nil)
	c, sock := w.NewChannel(0)
	defer sock.Close()
	began := time.Now()
	c.Serve(false, began.Add(grace))
	desk.Send("a")
	if ask := <-c.Asks(); ask != ipc.AskTimeout {
		t.Errorf("asks for %s", ask)
	}
	if took := time.Since(began); took < grace {
		t.Errorf("after %s", took)
	}
	c.Close("killed for it")
	if !c.Life().Held || c.Life().Answered {
		t.Errorf("%+v", c.Life())
	}
	desk.Want("a", "!given-up: no answer within 20ms")
}

// A message timeout that passed while this program slept is granted once more.
func TestTimeoutAfterSleep(t *testing.T) {
	const timeout = 200 * time.Millisecond
	var ahead atomic.Int64 // of the clock
	w := ipctest.NewWorld(t, func(c *ipc.Config) {
		c.MessageTimeout, c.Attempts = timeout, 1
		c.Awake = awake.New(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }, nil)
	})
	desk := w.NewDesk(nil)
	c, sock := w.NewChannel(0)
	defer sock.Close()
	began := time.Now()
	c.Serve(true, time.Time{})
	desk.Send("a")
	ahead.Store(int64(time.Hour))
	if ask := <-c.Asks(); ask != ipc.AskTimeout {
		t.Errorf("asks for %s", ask)
	}
	if took := time.Since(began); took < 2*timeout {
		t.Errorf("after %s", took)
	}
	c.Close("killed for it")
	desk.Want("a", "!given-up: no answer within 200ms")
}

// Nothing goes behind a message that has been in hand for a while, however fast the
// worker was.
func TestNothingBehindASlowMessage(t *testing.T) {
	w := ipctest.NewWorld(t, nil)
	slow := make(chan bool)
	for range 2 {
		w.Worker(ipctest.Answering(func(b []byte) []byte {
			if string(b) == "slow" {
				<-slow
			}
			return ipctest.Echo(b)
		}))
	}
	desk := w.NewDesk(nil)
	for i := 0; i < 100 || w.Q.Stats(2).Workers[0].Window < 4 || w.Q.Stats(2).Workers[1].Window < 4; i++ {
		desk.Send(names(fmt.Sprint("fast", i, "-"), 16)...)
		ipctest.Eventually(t, "all are answered", func() bool { n, _, flying := w.Q.Depth(); return n+flying == 0 })
	}
	desk.Send("slow")
	ipctest.Eventually(t, "it is held", func() bool {
		s := w.Q.Stats(2)
		return max(s.Workers[0].Held, s.Workers[1].Held) > 2*ipc.AutoAhead
	})
	for i := range 200 {
		desk.Send(fmt.Sprint("other", i))
	}
	ipctest.Eventually(t, "the others are answered", func() bool { n, _, flying := w.Q.Depth(); return n == 0 && flying == 1 })
	close(slow)
}

func TestPause(t *testing.T) {
	w := ipctest.NewWorld(t, nil)
	var got ipctest.Collector
	w.Worker(ipctest.Answering(got.Add))
	w.Q.Pause()
	desk := w.NewDesk(nil)
	desk.Send("a", "b")
	s := w.Q.Stats(1)
	if !w.Q.Paused() || !s.Paused || s.Messages != 2 || s.Later != 2 || s.InFlight != 0 {
		t.Errorf("%+v", s)
	}
	if n, _, _ := w.Q.Free(10); n != 0 {
		t.Errorf("there is room for %d", n)
	}
	w.Q.Resume()
	got.Expect(t, "a", "b")
	if w.Q.Paused() {
		t.Error("still paused")
	}
}

// A stop does not wait for what a pause keeps.
func TestPausedQueueEnds(t *testing.T) {
	w := ipctest.NewWorld(t, nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	w.Q.Pause()
	desk := w.NewDesk(nil)
	desk.Send("a")
	if empty := w.Q.Empty(); ipctest.IsClosed(empty) {
		t.Error("it is empty before its end is known")
	}
	w.Q.Until(time.Now().Add(time.Hour))
	select {
	case <-w.Q.Empty():
	case <-time.After(ipctest.Patience):
		t.Fatal("it waits")
	}
	w.Q.Close()
	desk.Want("a", "!stopping: poolinit stopped before a worker was free; send it again")
}

func TestListAndDrop(t *testing.T) {
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Window = 1 })
	a := w.NewDesk(nil)
	b := a.Beside()
	a.Send("a0", "a1", "a2")
	b.Send("b0")
	all, _ := w.Q.List(10)
	if len(all) != 4 || all[0].ID != 1 || all[3].ID != 4 || all[1].Bytes != 2 || all[1].Due != 0 || all[1].Age <= 0 {
		t.Fatalf("%+v", all)
	}
	if n := w.Q.Drop([]uint64{2, 4, 99}); n != 2 {
		t.Errorf("%d dropped", n)
	}
	b.Want("b0", "!given-up: dropped by an operator")
	w.Worker(ipctest.Answering(ipctest.Echo))
	a.Want("a0", "a0", "a1", "!given-up: dropped by an operator", "a2", "a2")
	if n := a.Stats.GivenUp.Load(); n != 2 {
		t.Errorf("%d given up", n)
	}
}

// A worker that is the only one gets what it failed; with another one that one does,
// but not for ever if that is busy.
func TestFailedGoesElsewhere(t *testing.T) {
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Attempts, c.Window = 3, 1 })
	desk := w.NewDesk(nil)
	hang := make(chan bool)
	w.Worker(func(sock net.Conn) {
		body, _, _ := ipctest.ReadFrame(sock)
		<-hang
		_, _ = sock.Write(ipctest.Echo(body))
		ipctest.Silent(sock)
	})
	desk.Send("hang")
	tries := 0
	between, last := make(chan time.Duration, 1), time.Now() // 1: the test looks later
	w.Worker(ipctest.Answering(func(b []byte) []byte {
		if tries++; tries == 1 {
			last = time.Now()
			return failure("error: not yet")
		}
		between <- time.Since(last)
		return ipctest.Echo(b)
	}))
	desk.Send("a")
	desk.Want("a", "a")
	if took := <-between; took < 400*time.Millisecond {
		t.Errorf("it went back after %s", took)
	}
	close(hang)
	desk.Want("a", "a", "hang", "hang")
}

// What has ended a worker does not go to one that has just started, as long as
// another worker may take it: two new workers that die of it would speak against
// their version.
func TestDeathDoesNotGoToNewborn(t *testing.T) {
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Attempts, c.Window = 3, 1 })
	desk := w.NewDesk(nil)
	hang := make(chan bool)
	w.Worker(ipctest.Answering(func(b []byte) []byte { <-hang; return ipctest.Echo(b) }))
	desk.Send("hang")
	first, sock := w.NewChannel(1)
	first.Serve(false, time.Time{})
	desk.Send("poison")
	_, _, _ = ipctest.ReadFrame(sock)
	sock.Close()
	first.Close("it died")
	second, sock := w.NewChannel(1)
	t.Cleanup(func() { second.Close("the test is over"); sock.Close() })
	second.Serve(false, time.Time{})
	desk.Send("another")
	if body, _, _ := ipctest.ReadFrame(sock); string(body) != "another" {
		t.Errorf("it got %q", body)
	}
	close(hang)
	desk.Want("hang", "hang", "poison", "poison")
}
