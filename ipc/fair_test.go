package ipc_test

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/testkit/race"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

func windowOne(c *ipc.Config) { c.Window = 1 }

// names returns a0, a1 ...
func names(prefix string, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprint(prefix, i))
	}
	return all
}

// Before a message go at most one of each other flow.
func TestFlowsTakeTurns(t *testing.T) {
	w := ipctest.NewWorld(t, windowOne)
	a := w.NewDesk(nil)
	b, c := a.Beside(), a.Beside()
	a.Send(names("a", 5)...)
	b.Send(names("b", 2)...)
	c.Send(names("c", 3)...)
	var got ipctest.Collector
	w.Worker(ipctest.Answering(got.Add))
	got.Expect(t, "a0", "b0", "c0", "a1", "b1", "c1", "a2", "c2", "a3", "a4")
}

// A source of a higher priority goes first, however many wait.
func TestPriority(t *testing.T) {
	w := ipctest.NewWorld(t, windowOne)
	low := w.NewDesk(nil)
	high := w.NewDesk(func(l *ipc.Lane) { l.Priority = ipc.MaxPriority })
	middle := w.NewDesk(func(l *ipc.Lane) { l.Priority = 5 })
	low.Send("l0", "l1")
	middle.Send("m0", "m1")
	high.Send("h0", "h1")
	var got ipctest.Collector
	w.Worker(ipctest.Answering(got.Add))
	got.Expect(t, "h0", "h1", "m0", "m1", "l0", "l1")
}

// When the queue is full the next place goes to a flow that has none, and no more
// than fit are let in.
func TestRoomGoesToWhoHasNone(t *testing.T) {
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Window, c.QueueMessages = 1, 4 })
	busy := w.NewDesk(nil)
	if n := busy.Try(names("a", 6)...); n != 4 {
		t.Fatalf("%d were taken, want 4", n)
	}
	more := w.Q.Room(&busy.Flow)
	small := busy.Beside()
	if n := small.Try("b"); n != 0 {
		t.Fatal("the bound is exceeded")
	}
	room := w.Q.Room(&small.Flow)
	if ipctest.IsClosed(room) || ipctest.IsClosed(more) {
		t.Fatal("there is room in a full queue")
	}
	gate := make(chan bool)
	w.Worker(ipctest.Answering(func(b []byte) []byte { <-gate; return ipctest.Echo(b) })) // takes one
	<-room
	if ipctest.IsClosed(more) {
		t.Error("the place is given twice")
	}
	if n := busy.Try("a4"); n != 0 {
		t.Error("the place of another was taken")
	}
	if n := busy.Beside().Try("c"); n != 0 {
		t.Error("the place of another was taken by one that came later")
	}
	small.Send("b")
	if n, _, _ := w.Q.Depth(); n != 4 {
		t.Errorf("%d wait, want 4", n)
	}
	close(gate)
	small.Want("b", "b")
}

// A flow that leaves gives back what was kept for it.
func TestLeave(t *testing.T) {
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Window, c.QueueMessages = 1, 1 })
	a := w.NewDesk(nil)
	b, c := a.Beside(), a.Beside()
	a.Send("a")
	if b.Try("b")+c.Try("c") != 0 {
		t.Fatal("the bound is exceeded")
	}
	roomB, roomC := w.Q.Room(&b.Flow), w.Q.Room(&c.Flow)
	gate := make(chan bool)
	w.Worker(ipctest.Answering(func(b []byte) []byte { <-gate; return ipctest.Echo(b) }))
	<-roomB
	w.Q.Leave(&b.Flow)
	<-roomC
	c.Send("c")
	close(gate)
	c.Want("c", "c")
}

// Bytes have a bound, too, that one message alone may exceed.
func TestBytesAreBounded(t *testing.T) {
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.QueueBytes = 1000 })
	a, large := w.NewDesk(nil), strings.Repeat("x", 600)
	if n := a.Try(large, large); n != 1 {
		t.Errorf("%d of 600 bytes fit 1000", n)
	}
	if _, bytes, _ := w.Q.Depth(); bytes > 1000 {
		t.Errorf("%d bytes wait", bytes)
	}
	huge := ipctest.NewWorld(t, func(c *ipc.Config) { c.QueueBytes = 1000 })
	huge.NewDesk(nil).Send(strings.Repeat("x", 5000))
}

// A message that no worker had in time is answered so, also while all are busy. One
// that a worker had does not expire.
func TestExpires(t *testing.T) {
	const after = 60 * time.Millisecond
	w := ipctest.NewWorld(t, windowOne)
	desk := w.NewDesk(func(l *ipc.Lane) { l.Expires = after })
	patient := w.NewDesk(nil)
	began, release := time.Now(), make(chan bool)
	w.Worker(ipctest.Answering(func(b []byte) []byte {
		if string(b) == "first" {
			<-release
		}
		return ipctest.Echo(b)
	}))
	desk.Send("first", "old")
	ipctest.Eventually(t, "it waits for a while", func() bool { all, _ := w.Q.List(2); return len(all) == 1 && all[0].Age > after/3 })
	desk.Send("younger")
	patient.Send("patient")
	why := "!expired: no worker had it within " + after.String()
	desk.Want("old", why, "younger", why)
	if _, order, _ := desk.Ended(); !slices.Equal(order, []string{"old", "younger"}) {
		t.Errorf("in the order %q", order)
	}
	if took := time.Since(began); took < after*4/3 {
		t.Errorf("it took %s", took)
	}
	close(release)
	desk.Want("first", "first", "old", why, "younger", why)
	patient.Want("patient", "patient")
	if n := desk.Stats.Expired.Load(); n != 2 || desk.Stats.Failed.Load() != 2 {
		t.Errorf("%d expired, %d failed", n, desk.Stats.Failed.Load())
	}
	desk.Send("in time")
	desk.Want("first", "first", "old", why, "younger", why, "in time", "in time")
}

// What waits costs no memory but its own.
func TestWaitingAllocatesNothing(t *testing.T) {
	w := ipctest.NewWorld(t, windowOne)
	w.Worker(mirror)
	desks := []*quiet{}
	for i := range 4 {
		d := &quiet{settled: make(chan bool, 64)}
		d.lane = ipc.Lane{Source: new(ipc.SourceStats), Priority: i % 2, Expires: time.Duration(i/2) * time.Hour}
		d.flow = ipc.NewFlow(&d.lane)
		desks = append(desks, d)
	}
	var batch [16]*ipc.Delivery
	round := func() {
		for _, d := range desks {
			for i := range batch {
				batch[i] = ipc.NewDelivery(d, &d.flow, []byte("hello"))
			}
			w.Q.Submit(batch[:])
		}
		for _, d := range desks {
			for range batch {
				<-d.settled
			}
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it empties the pools
	if each := testing.AllocsPerRun(200, round) / 64; each > 0.05 && !race.On || each > 1.5 {
		t.Errorf("%.3f allocations a message", each)
	}
}

// A quiet sender only counts.
type quiet struct {
	lane    ipc.Lane
	flow    ipc.Flow
	settled chan bool // as many as are under way
}

func (q *quiet) Settled(d *ipc.Delivery, _ []byte) { d.Release(); q.settled <- true }
func (q *quiet) Flush()                            {}
