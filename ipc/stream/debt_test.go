package stream

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// newUnixWorld is newWorld with a unix socket, for which the kernel holds little.
func newUnixWorld(t *testing.T, params string, change func(*ipc.Config)) (w *world, dial func() *ipctest.Client) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	w = &world{World: ipctest.NewWorld(t, change)}
	w.src = w.Serve(parsed(t, "unix://"+path+params).open).(*listener)
	return w, func() *ipctest.Client { t.Helper(); return ipctest.Dial(t, "unix", path) }
}

// sized is a worker whose replies are as long as their messages say.
func sized(body []byte) []byte {
	var n int
	_, _ = fmt.Sscan(string(body), &n)
	return frame.Append(nil, make([]byte, n))
}

// The messages of a client that does not read wait for it, and keep no other client
// out of a full queue. When it reads, all of them are handled.
func TestMessagesWaitForTheirClient(t *testing.T) {
	t.Parallel()
	w, dial := newUnixWorld(t, "?reply=always&idle=0s", func(c *ipc.Config) { c.QueueMessages, c.Window = 40, 1 })
	w.Worker(ipctest.Answering(sized))
	deaf := dial()
	deaf.Send(strings.Split(strings.TrimSpace(strings.Repeat("600000 ", 40)), " ")...)
	ipctest.Eventually(t, "its messages wait", w.isHeld)
	ipctest.Eventually(t, "the worker is idle", func() bool { return w.Q.Stats(1).InFlight == 0 })
	s := w.Q.Stats(1)
	if s.Held < 30 || s.Held != s.Messages || s.Later != s.Messages || s.OldestID != 0 {
		t.Errorf("%d held of %d, %d not for now, the oldest is %d", s.Held, s.Messages, s.Later, s.OldestID)
	}
	if owes := w.Q.Debts().Total(); owes < maxUnread || owes > maxUnread+2<<20 {
		t.Errorf("%d bytes wait", owes)
	}
	for range 100 { // each needs a place of those 40
		c := dial()
		c.Send("3")
		c.Want("\x00\x00\x00")
		c.Close()
	}
	for i := range 40 {
		if n := len(deaf.Next()); n != 600_000 {
			t.Fatalf("reply %d has %d bytes", i, n)
		}
	}
	ipctest.Eventually(t, "nothing is owed", func() bool { return w.Q.Debts().Total() == 0 })
	deaf.Send("1")
	deaf.Want("\x00")
}

// With tags it is the same.
func TestTaggedMessagesWaitForTheirClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "?tagged=true&idle=0s", func(c *ipc.Config) { c.Window = 1 })
	w.Worker(ipctest.Answering(sized))
	c := w.dialTagged()
	c.write(hello)
	c.want(helloAnswer)
	for i := range 40 {
		c.write(tagged(uint64(i+1), "600000"))
	}
	ipctest.Eventually(t, "its messages wait", w.isHeld)
	for i := range 40 {
		if got := c.next(); len(got) < 600_000 {
			t.Fatalf("answer %d is %.50q", i, got)
		}
	}
	ipctest.Eventually(t, "nothing is owed", func() bool { return w.Q.Debts().Total() == 0 })
}

// When all replies that wait are too much, the client that owes most is cut off.
// What it had sent is handled all the same.
func TestLargestDebtorIsCutOff(t *testing.T) {
	t.Parallel()
	w, dial := newUnixWorld(t, "?reply=always&idle=0s", func(c *ipc.Config) { c.ReplyBytes, c.Window = 4<<20, 1 })
	var handled atomic.Int32
	w.Worker(ipctest.Answering(func(b []byte) []byte { handled.Add(1); return sized(b) }))
	modest := dial()
	modest.Send("300000")
	ipctest.Eventually(t, "it owes", func() bool { return w.Q.Debts().Total() > 0 })
	const clients = 12
	for range clients {
		deaf := dial()
		deaf.Send("400000", "400000", "400000", "400000", "400000")
	}
	ipctest.Eventually(t, "some are cut off, and have theirs handled", func() bool {
		n, held := w.src.stats.CutOff.Load(), w.Q.Stats(1).Held
		return n > 0 && int(handled.Load())+held == 1+clients*5 && w.Q.Stats(1).InFlight == 0
	})
	if total := w.Q.Debts().Total(); total > 4<<20 {
		t.Errorf("%d bytes wait", total)
	}
	if got := modest.Next(); len(got) != 300_000 {
		t.Errorf("the client that owes little got %.50q", got)
	}
	if log := w.Log.Text(); strings.Count(log, "clients cut off, they did not read their replies") != 1 {
		t.Errorf("log:\n%s", log)
	}
}

// A reply that is longer than --reply-bytes is not kept, and its client told.
func TestReplyIsTooLong(t *testing.T) {
	t.Parallel()
	for _, format := range []ipc.Format{ipc.Frames, ipc.Tagged} {
		w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Format, c.ReplyBytes = format, 1<<20 })
		if format == ipc.Tagged {
			w.Worker(answering(func(out, in []byte) ([]byte, int) {
				f, size, ok, _ := frame.CutTagged(in, 1000)
				if !ok {
					return out, 0
				}
				return frame.AppendTagged(out, frame.Tagged{Tag: f.Tag, Body: frame.Body(sized(f.Body))}), size
			}))
		} else {
			w.Worker(ipctest.Answering(sized))
		}
		c := w.dial()
		for range 3 {
			c.Send("1", "3000000", "200000", "2")
			c.Want("\x00")
			if got := c.Next(); !strings.HasPrefix(got, "!refused: the message was handled, but its reply of 30000") {
				t.Errorf("%.100q", got)
			}
			if got := c.Next(); len(got) != 200_000 {
				t.Errorf("%d bytes", len(got))
			}
			c.Want("\x00\x00")
		}
	}
}

// One that goes away owes nothing any more, and its messages are handled.
func TestDebtorGoesAway(t *testing.T) {
	t.Parallel()
	w, dial := newUnixWorld(t, "?reply=always&idle=0s", func(c *ipc.Config) { c.Window = 1 })
	w.Worker(ipctest.Answering(sized))
	for range 3 {
		before := w.src.stats.Handled.Load()
		deaf := dial()
		deaf.Send(strings.Split(strings.TrimSpace(strings.Repeat("600000 ", 40)), " ")...)
		ipctest.Eventually(t, "its messages wait", w.isHeld)
		deaf.Close()
		ipctest.Eventually(t, "all is handled", func() bool {
			return w.src.stats.Handled.Load() == before+40 && w.Q.Debts().Total() == 0 && w.src.stats.Connections.Load() == 0
		})
	}
}

// Those that announce large messages and fall silent cost others nothing, and are
// the first to go when there is no room.
func TestLiars(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.QueueBytes = 8 << 20 })
	w.Worker(ipctest.Answering(func(b []byte) []byte { return frame.Append(nil, b[:1]) }))
	const liars = 300
	for range liars {
		if _, err := w.dial().Write(frame.Append(nil, make([]byte, 2<<20))[:17_000]); err != nil {
			t.Fatal(err)
		}
	}
	ipctest.Eventually(t, "they are all being read", func() bool {
		return w.src.stats.Accepted.Load() == liars && (w.held() > 6<<20 || w.src.stats.FramesPartial.Load() > 0)
	})
	for _, size := range []int{1000, 20_000, 2 << 20} {
		c := w.dial()
		c.Send(strings.Repeat("x", size))
		c.Want("x")
	}
	if held := w.held(); held > 8<<20 {
		t.Errorf("%d bytes are held", held)
	}
	if w.stopAfterAll(t) {
		t.Error("the stop took all the time there was")
	}
}
