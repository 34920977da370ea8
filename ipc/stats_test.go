package ipc_test

import (
	"testing"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

func TestQueueStats(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Window, c.Attempts = 1, 2 })
	release := make(chan bool)
	failing := ipctest.Answering(func(body []byte) []byte {
		<-release
		if string(body) == "bad" {
			return frame.AppendFailure(nil, frame.Refused, "no")
		}
		return ipctest.Echo(body)
	})
	w.Worker(failing)
	c := w.dial()
	c.Send("a", "bad", "c")
	ipctest.Eventually(t, "one in hand, two waiting", func() bool {
		s := w.Q.Stats(2)
		return s.InFlight == 1 && s.Messages == 2 && s.Workers[0].InHand == 1 && s.Oldest > 0
	})
	held := w.Q.Stats(1)
	ipctest.Eventually(t, "held and busy grow", func() bool {
		s := w.Q.Stats(1)
		return s.Workers[0].Held > held.Workers[0].Held && s.Workers[0].Busy > held.Workers[0].Busy && s.Oldest > held.Oldest
	})
	if held.OldestID != 2 || held.Workers[0].Window != 1 || held.Idle != 0 {
		t.Errorf("%+v", held.Workers)
	}
	for range 3 {
		release <- true
	}
	c.Want("a", "!refused: no", "c")
	ipctest.Eventually(t, "all is told", func() bool {
		s := w.Q.Stats(1)
		return s.InFlight == 0 && s.Messages == 0 && s.Idle == 1 && s.Oldest == 0
	})
	s := w.Q.Stats(2)
	if got := s.Workers[0]; got.Handled != 2 || got.Failed != 1 || got.InHand != 0 || got.Held != 0 || got.Busy <= 0 {
		t.Errorf("worker 0: %+v", got)
	}
	if s.Workers[1] != (ipc.WorkerStats{}) {
		t.Errorf("worker 1 is not there, but has %+v", s.Workers[1])
	}
	if s.Waiting.Count != 3 || s.Handling.Count != 3 || s.Waiting.Seconds <= 0 || s.Handling.Seconds <= 0 {
		t.Errorf("waiting %d in %v, handling %d in %v", s.Waiting.Count, s.Waiting.Seconds, s.Handling.Count, s.Handling.Seconds)
	}
	if again := w.Q.Stats(1).Workers[0].Busy; again != s.Workers[0].Busy {
		t.Errorf("idle, but busy went from %v to %v", s.Workers[0].Busy, again)
	}
}

// What a worker that died had in hand counts as failed, once, and its successor
// continues the sums.
func TestQueueStatsOfTheDead(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Window, c.Attempts = 8, 2 })
	got := make(chan bool)
	c1, sock := w.NewChannel(0)
	c1.Serve(true, time.Time{})
	c := w.dial()
	go func() { // ends when it has read the first message
		_, _, _ = ipctest.ReadFrame(sock)
		close(got)
	}()
	c.Send("a", "b", "c")
	<-got
	ipctest.Eventually(t, "three in hand", func() bool { return w.Q.Stats(1).Workers[0].InHand == 3 })
	sock.Close()
	c1.Close("it died")
	if s := w.Q.Stats(1).Workers[0]; s.Failed != 1 || s.Handled != 0 || s.InHand != 0 || s.Window != 0 || s.Busy <= 0 {
		t.Errorf("after the death: %+v", s)
	}
	w.Worker(ipctest.Answering(ipctest.Echo))
	c.Want("a", "b", "c")
	ipctest.Eventually(t, "three handled", func() bool { return w.Q.Stats(1).Workers[0].Handled == 3 })
	if s := w.Q.Stats(1).Workers[0]; s.Failed != 1 || s.Window == 0 || s.Busy > time.Minute {
		t.Errorf("with the successor: %+v", s)
	}
}
