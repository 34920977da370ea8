package sysv

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit/strict"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// holding adds a worker that holds the first message until it is let go, which
// the end of the test does, too.
func (w *world) holding() (c *ipctest.Collector, letGo func()) {
	c = new(ipctest.Collector)
	let := make(chan struct{})
	letGo = sync.OnceFunc(func() { close(let) })
	w.Worker(ipctest.Answering(func(body []byte) []byte {
		<-let
		return c.Add(body)
	}))
	w.T.Cleanup(letGo)
	return c, letGo
}

// mended tends the source until its queue is there, in this thread.
func mended(t *testing.T, src *source) {
	t.Helper()
	for deadline := time.Now().Add(ipctest.Patience); src.lost; src.tend(nil) {
		if time.Now().After(deadline) {
			t.Fatalf("the queue is not made again: %s", src.Missing())
		}
	}
}

// The queue is removed while no worker has room: it does not take a free one to
// make it again.
func TestRemovedWhileBusy(t *testing.T) {
	w := newWorld(t, func(c *ipc.Config) { c.Window = 1 })
	c, letGo := w.holding()
	w.send("0")
	for i := range 3 {
		ipctest.Eventually(t, "the worker has the first, the kernel the others", func() bool {
			_, _, flying := w.Q.Depth()
			return flying == 1 && w.depth() == min(i, 1)
		})
		removeQueue(w.key)
		ipctest.Eventually(t, "the queue is there again", func() bool { return w.depth() == 0 })
		w.send(fmt.Sprint("after ", i))
	}
	ipctest.Eventually(t, "it is counted", func() bool { return w.src.Stats().Remade.Load() == 3 })
	if n := w.watchers(); n > 1 {
		t.Errorf("%d wait for a worker: each look adds one", n)
	}
	letGo()
	c.Expect(t, "0", "after 2") // the others were removed
}

// watchers returns how many channels the queue has promised to close.
func (w *world) watchers() int {
	return reflect.ValueOf(w.Q).Elem().FieldByName("watchers").Len()
}

// Another process makes the queue before the source does: that one counts from now
// on.
func TestReplacedWhileBusy(t *testing.T) {
	w := newWorld(t, func(c *ipc.Config) { c.Window = 1 })
	c, letGo := w.holding()
	w.send("0")
	ipctest.Eventually(t, "the worker has it", func() bool { _, _, flying := w.Q.Depth(); return flying == 1 })
	removeQueue(w.key)
	if _, err := msgget(w.key, unix.IPC_CREAT|0o600); err != nil {
		t.Fatal(err)
	}
	w.send("1")
	ipctest.Eventually(t, "it is found", func() bool { return w.src.Stats().Remade.Load() == 1 })
	letGo()
	c.Expect(t, "0", "1")
}

// What was taken waits for room in memory: the queue is looked after meanwhile,
// and the message goes on as soon as there is room, be the queue there or not.
func TestRemovedWhileFull(t *testing.T) {
	w := newIdleWorld(t, func(c *ipc.Config) { c.QueueMessages = 1 })
	src := w.src
	w.send("0", "1", "2")
	var batch [batchSize]*ipc.Delivery
	n, err := src.take(batch[:], 1<<20)
	if n != 3 || err != nil {
		t.Fatalf("%d messages, %v", n, err)
	}
	w.Ended.Go(func() { src.submit(batch[:n]) }) // ends with the queue
	for i := range 2 {
		removeQueue(w.key)
		ipctest.Eventually(t, "the queue is there again", func() bool { return w.depth() == 0 && src.stats.Remade.Load() == uint64(i)+1 })
	}
	var over atomic.Bool
	enemy := make(chan struct{})
	go func() { // ends with the test
		defer close(enemy)
		for !over.Load() {
			removeQueue(w.key)
		}
	}()
	defer func() {
		over.Store(true)
		<-enemy
	}()
	ipctest.Eventually(t, "the queue is missing", func() bool { return src.Missing() != "" })
	var c ipctest.Collector
	w.Worker(ipctest.Answering(c.Add))
	c.Expect(t, "0", "1", "2")
}

// A queue that can be made again at once was never missing, one that cannot is,
// until it can.
func TestMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inOwnIPC(t, func() {
			// A goroutine of its own would be in the other namespace: the source is driven by hand.
			w := newIdleWorld(t, nil)
			src := w.src
			setLimit(t, "msgmni", 1)

			removeQueue(w.key)
			loseByTaking(t, src)
			expectMissing(t, src, "")
			mended(t, src)
			expectMissing(t, src, "")

			removeQueue(w.key)
			other := newKey(t)
			if _, err := msgget(other, unix.IPC_CREAT|0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * healthy)
			loseByTaking(t, src)
			expectMissing(t, src, "") // until the first attempt
			for range 3 {
				src.tend(nil)
				expectMissing(t, src, "no space left on device")
			}
			removeQueue(other)
			mended(t, src)
			expectMissing(t, src, "")
			if n := src.stats.Remade.Load(); n != 2 || w.depth() != 0 {
				t.Errorf("made again %d times, depth %d; want 2 and 0", n, w.depth())
			}

			removeQueue(w.key) // soon after: there is a pause
			loseByTaking(t, src)
			expectMissing(t, src, "identifier removed")
			mended(t, src)
			expectMissing(t, src, "")
		})
	})
}

// loseByTaking takes from a queue that has been removed.
func loseByTaking(t *testing.T, src *source) {
	t.Helper()
	var batch [1]*ipc.Delivery
	_, err := src.take(batch[:], 1<<20)
	if err != unix.EIDRM {
		t.Fatalf("taking from a removed queue: %v", err)
	}
	src.lose(err)
}

func expectMissing(t *testing.T, src *source, want string) {
	t.Helper()
	if got := src.Missing(); got != want {
		t.Errorf("missing for %q, want %q", got, want)
	}
}

// The permission to read is taken away while no worker has room, and given back.
func TestForbiddenWhileBusy(t *testing.T) {
	if os.Geteuid() != 0 {
		strict.Skip(t, "only root can become somebody else")
	}
	synctest.Test(t, forbidWhileBusy)
}

func forbidWhileBusy(t *testing.T) {
	key := newKey(t)
	if _, err := msgget(key, unix.IPC_CREAT|0o644); err != nil {
		t.Fatal(err)
	}
	ipctest.OnOwnThread(func() {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			t.Error(errno)
			return
		}
		opened, err := openerOf(t, fmt.Sprintf("sysv://%#x", key))(ipc.NewQueue(ipctest.Config(nil), zerolog.Nop()), zerolog.Nop())
		if err != nil {
			t.Error(err)
			return
		}
		src := opened.(*source)
		forbid := func(mode uint32) { // by root, which the test's other threads are
			done := make(chan struct{})
			go func() {
				defer close(done)
				setQueueMode(t, src.id, mode)
			}()
			<-done
		}
		forbid(0o600)
		src.tend(nil) // looks,
		src.tend(nil) // and tries to open it
		if why := src.Missing(); !strings.Contains(why, "uid 65534 may not read it") {
			t.Errorf("missing for %q", why)
		}
		forbid(0o644)
		mended(t, src)
		expectMissing(t, src, "")
		if n := src.stats.Remade.Load(); n != 0 {
			t.Errorf("made again %d times: it is the same", n)
		}
	})
}
