package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// Beyond --spool-bytes a given-up message is lost, and what a stop leaves is not.
// What is there at the start counts, and what is removed does not any more.
func TestLimit(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, 1, 2, strings.Repeat("x", 5000)) // 8 KiB on the disk
	var log ipctest.Log
	spool, err := Open(Config{Dir: dir, SpoolBytes: 20 << 10}, log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.Spool, c.GivenUp, c.Attempts = spool.Keep, spool.GiveUp, 1 })
	ch := w.Worker(ipctest.Answering(failing("oops")))
	desk := w.NewDesk(nil)
	for i := range 5 {
		desk.Send(fmt.Sprint(i))
	}
	ipctest.Eventually(t, "all are told", func() bool { ended, _, _ := desk.Ended(); return len(ended) == 5 })
	want := ipc.SpoolStats{Files: 4, Bytes: 20 << 10, Limit: 20 << 10, LostLimit: 2}
	if got := spool.Stats(); got != want || desk.Stats.Lost.Load() != 2 || len(files(t, dir, givenUp)) != 3 {
		t.Errorf("%+v, lost %d, kept %q", got, desk.Stats.Lost.Load(), files(t, dir, givenUp))
	}
	if n := strings.Count(log.Text(), "spool is full, given-up message lost"); n != 1 {
		t.Errorf("%d lines: %s", n, log.Text())
	}
	for _, name := range files(t, dir, givenUp) {
		must(t, os.Remove(filepath.Join(dir, name)))
	}
	spool.writer.counted = time.Time{} // as if it was long ago
	desk.Send("again")
	ipctest.Eventually(t, "there is room again", func() bool { return len(files(t, dir, givenUp)) == 1 && spool.Stats().Files == 2 })
	ch.Close("the end")
	desk.Send("left 1", "left 2", "left 3")
	w.Q.Close()
	spool.Flush(time.Now().Add(ipctest.Patience))
	if n := len(files(t, dir, undelivered)); n != 4 || desk.Stats.Spooled.Load() != 3 {
		t.Errorf("%d undelivered ones, %d spooled", n, desk.Stats.Spooled.Load())
	}
	spool.Close()
}

// hanging returns a world whose spool has a disk that does nothing until release
// is called.
func hanging(t *testing.T, change func(*ipc.Config)) (w *ipctest.World, s *Spool, release func()) {
	t.Helper()
	dir, gate := t.TempDir(), make(chan struct{})
	s, err := Open(Config{Dir: dir}, (&ipctest.Log{}).Logger())
	if err != nil {
		t.Fatal(err)
	}
	real := s.writer
	s.writer = &writer{opened: gate, dir: real.dir, log: real.log, complain: real.complain, full: real.full, wake: make(chan struct{}, 1)}
	real.close()
	go s.writer.run() // ends with the test
	w = ipctest.NewWorld(t, func(c *ipc.Config) {
		c.Spool, c.GivenUp, c.Attempts, c.Window = s.Keep, s.GiveUp, 1, 1
		if change != nil {
			change(c)
		}
	})
	isReleased := false
	release = func() {
		if !isReleased {
			isReleased = true
			close(gate)
		}
	}
	t.Cleanup(func() {
		release()
		s.Flush(time.Now().Add(ipctest.Patience))
		s.Close()
	})
	return w, s, release
}

// While the disk hangs nothing waits for it but what is to be written: workers get
// messages, clients hear of theirs, and what has no room in memory is lost. When it
// responds, what was waiting is written.
func TestDiskHangs(t *testing.T) {
	w, s, release := hanging(t, func(c *ipc.Config) { c.QueueMessages = 4 * mostWaiting })
	w.Worker(ipctest.Answering(func(body []byte) []byte {
		if string(body) == "good" {
			return []byte{0, 0, 0, 0}
		}
		return failing("oops")(body)
	}))
	desk := w.NewDesk(nil)
	desk.Send("bad", "good")
	ipctest.Eventually(t, "the good one is handled", func() bool { return desk.Stats.Handled.Load() == 1 })
	desk.Want("good", "", "bad", "!given-up: oops: no") // when the disk counts as hanging
	const many = mostWaiting + 100
	for i := range many {
		desk.Send(fmt.Sprint(i))
	}
	ipctest.Eventually(t, "all are told", func() bool { ended, _, _ := desk.Ended(); return len(ended) == many+2 })
	if lost := desk.Stats.Lost.Load(); lost != 101 || s.Stats().LostSlow != 101 {
		t.Errorf("lost %d, %+v", lost, s.Stats())
	}
	release()
	ipctest.Eventually(t, "the others are written", func() bool { return s.Stats().Files == mostWaiting })
	if lost := desk.Stats.Lost.Load(); lost != 101 {
		t.Errorf("lost %d", lost)
	}
	desk.Send("worse")
	ipctest.Eventually(t, "it is written", func() bool { return s.Stats().Files == mostWaiting+1 })
}

// A stop does not wait longer for a disk than it has time: what is not written then
// is lost, and each client hears of it.
func TestDiskHangsAtStop(t *testing.T) {
	w, s, _ := hanging(t, nil)
	ch := w.Worker(ipctest.Answering(failing("oops")))
	desk := w.NewDesk(nil)
	desk.Send("bad")
	ipctest.Eventually(t, "it is given up", func() bool { return desk.Stats.GivenUp.Load() == 1 })
	ch.Close("the end")
	desk.Send("left 1", "left 2")
	w.Q.Close()
	s.Flush(time.Now().Add(100 * time.Millisecond))
	desk.Want("bad", "!given-up: oops: no", "left 1", "!stopping: poolinit stopped before a worker was free; send it again",
		"left 2", "!stopping: poolinit stopped before a worker was free; send it again")
	if lost := desk.Stats.Lost.Load(); lost != 3 || s.Stats().LostSlow != 3 || desk.Stats.Spooled.Load() != 0 {
		t.Errorf("lost %d, spooled %d, %+v", lost, desk.Stats.Spooled.Load(), s.Stats())
	}
	if _, _, inFlight := w.Q.Depth(); inFlight != 0 {
		t.Errorf("%d in flight", inFlight)
	}
}
