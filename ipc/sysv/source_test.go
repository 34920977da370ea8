package sysv

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit/strict"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// A world has a System V queue that no other process knows.
type world struct {
	*ipctest.World
	src *source
	key uint32
}

// sysvKeys makes keys of this process.
var sysvKeys atomic.Uint32

func newKey(t testing.TB) uint32 {
	key := 0x50000000 | uint32(os.Getpid())<<8&0xfffff00 | sysvKeys.Add(1)
	t.Cleanup(func() { removeQueue(key) })
	return key
}

func removeQueue(key uint32) {
	if id, err := msgget(key, 0); err == nil {
		unix.Syscall(unix.SYS_MSGCTL, uintptr(id), unix.IPC_RMID, 0)
	}
}

func newWorld(t testing.TB, change func(*ipc.Config)) *world {
	t.Helper()
	w := &world{World: ipctest.NewWorld(t, change), key: newKey(t)}
	w.src = w.Serve(w.opener()).(*source)
	return w
}

// newIdleWorld has a source that is not served.
func newIdleWorld(t testing.TB, change func(*ipc.Config)) *world {
	t.Helper()
	w := &world{World: ipctest.NewWorld(t, change), key: newKey(t)}
	w.src = w.Open(w.opener()).(*source)
	return w
}

func (w *world) opener() ipc.Opener {
	w.T.Helper()
	return opener(w.T, w.key)
}

func opener(t testing.TB, key uint32) ipc.Opener {
	t.Helper()
	return openerOf(t, fmt.Sprintf("sysv://%#x?mode=0600", key))
}

func openerOf(t testing.TB, url string) ipc.Opener {
	t.Helper()
	a, _ := ipc.ParseAddress(url)
	c, err := parse(a)
	if err != nil {
		t.Fatal(err)
	}
	c.lookEvery = 20 * time.Millisecond
	return func(q *ipc.Queue, log zerolog.Logger) (ipc.Source, error) { return open(c, q, log) }
}

func (w *world) send(bodies ...string) {
	w.T.Helper()
	for _, body := range bodies {
		if err := Send(w.key, []byte(body)); err != nil {
			w.T.Fatal(err)
		}
	}
}

// depth returns how many messages are in the queue.
func (w *world) depth() int {
	w.T.Helper()
	text, err := os.ReadFile("/proc/sysvipc/msg")
	if err != nil {
		w.T.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == strconv.Itoa(int(int32(w.key))) {
			n, _ := strconv.Atoi(f[4])
			return n
		}
	}
	return -1
}

func TestDelivers(t *testing.T) {
	w := newWorld(t, nil)
	var c ipctest.Collector
	w.Worker(ipctest.Answering(c.Add))
	long := strings.Repeat("x", min(msgmax(), 8192))
	w.send("a", "", "c\x00d", long)
	c.Expect(t, "a", "", "c\x00d", long)
	// Any type, in the order in which they came.
	id, _ := msgget(w.key, 0)
	for i, kind := range []byte{9, 1, 77} {
		if err := msgsnd(id, []byte{kind, 0, 0, 0, 0, 0, 0, 0, '0' + byte(i)}, 0); err != nil {
			t.Fatal(err)
		}
	}
	c.Expect(t, "a", "", "c\x00d", long, "0", "1", "2")
	stats := w.src.Stats()
	ipctest.Eventually(t, "all are counted", func() bool { return stats.Received.Load() == 7 && stats.Handled.Load() == 7 })
}

// What no worker is free for stays in the kernel.
func TestTakesOnlyWhatHasAWorker(t *testing.T) {
	w := newWorld(t, func(c *ipc.Config) { c.Window = 2 })
	for i := range 10 {
		w.send(strconv.Itoa(i))
	}
	_, _, more := w.Q.Free(1) // looks as the source does
	if w.depth() != 10 || ipctest.IsClosed(more) {
		t.Fatalf("%d in the kernel without a worker, want 10", w.depth())
	}
	let := make(chan int)
	w.Worker(func(sock net.Conn) {
		for n := range let {
			for range n {
				if _, _, err := ipctest.ReadFrame(sock); err != nil {
					return
				}
			}
			sock.Write(bytes.Repeat(frame.Append(nil, nil), n))
		}
	})
	defer close(let)
	waiting := func(kernel, flight int) {
		t.Helper()
		ipctest.Eventually(t, fmt.Sprintf("%d in the kernel, %d with the worker, none between", kernel, flight), func() bool {
			n, _, flying := w.Q.Depth()
			return w.depth() == kernel && n == 0 && flying == flight
		})
	}
	waiting(8, 2)
	let <- 1
	waiting(7, 2)
	let <- 2
	waiting(5, 2)
	w.src.Drain(context.Background()) // at once: nothing more is taken
	let <- 2
	waiting(5, 0)
}

// One message may be taken by a call that waits already.
func TestOneTooMany(t *testing.T) {
	w := newWorld(t, nil)
	c := w.Worker(ipctest.Answering(ipctest.Echo))
	ipctest.Eventually(t, "the source waits in the kernel", func() bool { return w.src.thread.Load() != 0 })
	c.Finish()
	w.send("1", "2", "3")
	ipctest.Eventually(t, "one is taken", func() bool { n, _, _ := w.Q.Depth(); return n == 1 && w.depth() == 2 })
	var next ipctest.Collector
	w.Worker(ipctest.Answering(next.Add))
	next.Expect(t, "1", "2", "3")
}

// An end while a thread waits in the kernel, again and again: it comes out.
func TestDrainInterrupts(t *testing.T) {
	w := newWorld(t, nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	for i := range 200 {
		w.src.Close()
		w.src = w.Open(w.opener()).(*source)
		ended := make(chan struct{})
		go func() { // ends with the source
			w.src.Serve()
			close(ended)
		}()
		if i%2 == 0 { // otherwise it may not have begun
			ipctest.Eventually(t, "the source waits in the kernel", func() bool { return w.src.thread.Load() != 0 })
		}
		w.src.Drain(context.Background())
		<-ended
	}
	w.send("stays")
	if w.depth() != 1 {
		t.Errorf("%d messages in the queue, want 1", w.depth())
	}
}

func TestRemoved(t *testing.T) {
	w := newWorld(t, nil)
	var c ipctest.Collector
	w.Worker(ipctest.Answering(c.Add))
	var want []string
	for i := range 3 { // with a wait from the second time on
		ipctest.Eventually(t, "the source waits in the kernel", func() bool { return w.src.thread.Load() != 0 })
		removeQueue(w.key)
		ipctest.Eventually(t, "the queue is there again", func() bool { return w.depth() >= 0 })
		w.send(strconv.Itoa(i))
		want = append(want, strconv.Itoa(i))
		c.Expect(t, want...)
	}
	if n := w.src.Stats().Remade.Load(); n != 3 {
		t.Errorf("made again %d times, want 3", n)
	}
	if n := strings.Count(w.Log.Text(), "System V queue lost"); n < 1 || n > 2 { // one in ten seconds
		t.Errorf("%d lines in the log, want 1: %s", n, w.Log.Text())
	}
}

// A queue that is removed again and again is waited for longer and longer, but
// not by a stop.
func TestDrainWhileRemoved(t *testing.T) {
	w := newWorld(t, nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	var over atomic.Bool
	var enemy sync.WaitGroup
	enemy.Go(func() {
		for !over.Load() {
			removeQueue(w.key)
		}
	})
	ipctest.Eventually(t, "it was made again twice", func() bool { return w.src.Stats().Remade.Load() >= 2 })
	w.src.Drain(context.Background())
	over.Store(true)
	enemy.Wait()
	if n := w.src.Stats().Remade.Load(); n > 10 {
		t.Errorf("made again %d times: it does not wait", n)
	}
}

func TestOversized(t *testing.T) {
	for _, spool := range []bool{false, true} {
		type bad struct {
			size   int
			reason string
		}
		quarantined := make(chan bad, 10)
		w := newWorld(t, func(c *ipc.Config) {
			c.MaxMessage = 100
			if spool {
				c.GivenUp = func(d *ipc.Delivery, reason string, done func()) { quarantined <- bad{len(d.Body()), reason}; done() }
			}
		})
		w.send("first", strings.Repeat("x", 101), strings.Repeat("y", 100), strings.Repeat("z", 8192), "last")
		var c ipctest.Collector
		w.Worker(ipctest.Answering(c.Add))
		c.Expect(t, "first", strings.Repeat("y", 100), "last")
		stats := w.src.Stats()
		ipctest.Eventually(t, "all are counted", func() bool {
			return stats.Received.Load() == 5 && stats.Handled.Load() == 3 && stats.Failed.Load() == 2 && stats.FramesTooBig.Load() == 2
		})
		if !spool {
			if stats.Lost.Load() != 2 {
				t.Errorf("lost %d, want 2", stats.Lost.Load())
			}
			continue
		}
		for _, want := range []int{101, 8192} {
			if b := <-quarantined; b.size != want || b.reason != fmt.Sprintf("it has %d bytes, and --max-message is 100", want) {
				t.Errorf("put away: %+v, want %d bytes", b, want)
			}
		}
	}
}

// The kernel's limit is raised while the source runs.
func TestLimitRaised(t *testing.T) {
	inOwnIPC(t, func() {
		// A goroutine of its own would be in the other namespace: the source is driven by hand.
		w := newIdleWorld(t, func(c *ipc.Config) { c.MaxMessage = 20_000 })
		src := w.src
		setLimit(t, "msgmnb", 1<<20)
		setLimit(t, "msgmax", 100_000)
		id, _ := msgget(w.key, 0)
		setQueueBytes(t, id, 1<<20)
		var c ipctest.Collector
		w.Worker(ipctest.Answering(c.Add))
		fits, tooBig := strings.Repeat("a", 20_000), strings.Repeat("b", 50_000)
		w.send("x", fits, tooBig, fits)
		setLimit(t, "msgmax", 10_000) // and lowered
		w.send("y")
		for w.depth() > 0 {
			var batch [batchSize]*ipc.Delivery
			n, err := src.take(batch[:], 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			src.submit(batch[:n])
		}
		got := c.All
		ipctest.Eventually(t, "all that fits", func() bool { return len(got()) == 4 })
		for i, size := range []int{1, 20_000, 20_000, 1} {
			if len(got()[i]) != size {
				t.Errorf("message %d has %d bytes, want %d", i, len(got()[i]), size)
			}
		}
		if src.stats.Lost.Load() != 1 || src.stats.FramesTooBig.Load() != 1 {
			t.Errorf("lost %d, too big %d; want 1 and 1", src.stats.Lost.Load(), src.stats.FramesTooBig.Load())
		}
	})
}

// inOwnIPC calls f on a thread with an IPC namespace of its own.
func inOwnIPC(t *testing.T, f func()) {
	t.Helper()
	var err error
	ipctest.OnOwnThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWIPC); err == nil {
			f()
		}
	})
	if err != nil {
		strict.Skip(t, "no permission to make an IPC namespace: %v", err)
	}
}

// setQueueBytes lets an existing queue hold more.
func setQueueBytes(t *testing.T, id, n int) {
	t.Helper()
	changeQueue(t, id, func(ds *msqid) { ds[11] = uint64(n) }) // msg_qbytes
}

// setQueueMode changes who may read and write an existing queue.
func setQueueMode(t *testing.T, id int, mode uint32) {
	t.Helper()
	changeQueue(t, id, func(ds *msqid) { (*[6]uint32)(unsafe.Pointer(ds))[5] = mode }) // behind a key and four ids
}

type msqid [15]uint64 // struct msqid64_ds

func changeQueue(t *testing.T, id int, change func(*msqid)) {
	t.Helper()
	var ds msqid
	if _, _, errno := unix.Syscall(unix.SYS_MSGCTL, uintptr(id), unix.IPC_STAT, uintptr(unsafe.Pointer(&ds))); errno != 0 {
		t.Error(errno)
	}
	change(&ds)
	if _, _, errno := unix.Syscall(unix.SYS_MSGCTL, uintptr(id), unix.IPC_SET, uintptr(unsafe.Pointer(&ds))); errno != 0 {
		t.Error(errno)
	}
}

func setLimit(t *testing.T, name string, n int) {
	t.Helper()
	// Opened and written by this thread, whose namespace counts.
	if err := os.WriteFile("/proc/sys/kernel/"+name, []byte(strconv.Itoa(n)), 0); err != nil {
		t.Fatal(err)
	}
}

// Another user's queue: a clear error, unless reading it is allowed.
func TestSomebodyElses(t *testing.T) {
	if os.Geteuid() != 0 {
		strict.Skip(t, "only root can be somebody else")
	}
	for mode, want := range map[int]string{
		0o600: "the queue is there, but uid 65534 may not read it (ipcs -q shows whose it is): permission denied",
		0o622: "may not read it",
		0o644: "",
	} {
		key := newKey(t)
		if _, err := msgget(key, unix.IPC_CREAT|mode); err != nil {
			t.Fatal(err)
		}
		open := openerOf(t, fmt.Sprintf("sysv://%#x", key))
		asOther(t, func() {
			_, err := open(ipc.NewQueue(ipctest.Config(nil), zerolog.Nop()), zerolog.Nop())
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("mode %o: %v", mode, err)
			}
			err = Send(key, []byte("x"))
			if mayWrite := mode&2 != 0; mayWrite != (err == nil) {
				t.Errorf("sending with mode %o: %v", mode, err)
			}
		})
	}
}

// asOther calls f on a thread of another user.
func asOther(t *testing.T, f func()) {
	t.Helper()
	ipctest.OnOwnThread(func() {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			t.Error(errno)
			return
		}
		f()
	})
}

// A queue that another user has made, as its producers may, is used, with a
// warning that names its owner and mode. If the URL asks for a mode it is not.
func TestMadeByAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		strict.Skip(t, "only root can be another user")
	}
	key := newKey(t)
	asOther(t, func() {
		if _, err := msgget(key, unix.IPC_CREAT|0o666); err != nil {
			t.Error(err)
		}
	})
	var log ipctest.Log
	q := ipc.NewQueue(ipctest.Config(nil), zerolog.Nop())
	open := func(params string) error {
		s, err := openerOf(t, fmt.Sprintf("sysv://%#x%s", key, params))(q, log.Logger())
		if err == nil {
			s.Close()
		}
		return err
	}
	if err := open(""); err != nil {
		t.Error(err)
	}
	if want := "made by uid 65534, owner uid 65534, mode 0666; poolinit runs as uid 0"; !strings.Contains(log.Text(), want) ||
		strings.Count(log.Text(), "System V queue belongs to another user, using it") != 1 {
		t.Errorf("%q is not in %s", want, log.Text())
	}
	if err := open("?mode=0666"); err != nil { // which that user may do anyway
		t.Error(err)
	}
	want := fmt.Sprintf("made by uid 65534 with mode 0666, and mode=0660 was asked for: remove it (ipcrm -Q %#x), or leave mode= out", key)
	if err := open("?mode=0660"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("with a mode: %v", err)
	}
}

// A queue of poolinit's own gets the mode that the URL asks for, and keeps its own
// if there is none. Neither is a warning.
func TestModeOfOwn(t *testing.T) {
	for params, want := range map[string]uint32{"": 0o622, "?mode=0600": 0o600} {
		key := newKey(t)
		id, err := msgget(key, unix.IPC_CREAT|0o622)
		if err != nil {
			t.Fatal(err)
		}
		var log ipctest.Log
		if _, err := openerOf(t, fmt.Sprintf("sysv://%#x%s", key, params))(ipc.NewQueue(ipctest.Config(nil), zerolog.Nop()), log.Logger()); err != nil {
			t.Error(err)
		}
		if s, err := state(id); err != nil || s.mode&0o777 != want || log.Text() != "" {
			t.Errorf("%q: mode %o, %v, %s", params, s.mode, err, log.Text())
		}
	}
}

func TestSendErrors(t *testing.T) {
	key := newKey(t)
	if err := Send(key, nil); err == nil || !strings.Contains(err.Error(), "there is no such queue") {
		t.Errorf("absent queue: %v", err)
	}
	if _, err := msgget(key, unix.IPC_CREAT|0o600); err != nil {
		t.Fatal(err)
	}
	err := Send(key, make([]byte, msgmax()+1))
	if want := fmt.Sprintf("the message has %d bytes, and the kernel takes %d (kernel.msgmax)", msgmax()+1, msgmax()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("long message: %v", err)
	}
}

// Sending waits while the queue is full.
func TestSendWaits(t *testing.T) {
	w := newWorld(t, nil)
	const n = 5000
	var sender sync.WaitGroup
	sender.Go(func() {
		for i := range n {
			w.send(strconv.Itoa(i))
		}
	})
	ipctest.Eventually(t, "the queue is full", func() bool { return w.depth() > 100 })
	var c ipctest.Collector
	w.Worker(ipctest.Answering(c.Add))
	sender.Wait()
	ipctest.Eventually(t, "all of them", func() bool { return len(c.All()) == n })
	for i, got := range c.All() {
		if got != strconv.Itoa(i) {
			t.Fatalf("message %d is %q", i, got)
		}
	}
}

// A worker that dies: its messages are delivered again, and nothing twice that
// was answered.
func TestRedelivers(t *testing.T) {
	w := newWorld(t, func(c *ipc.Config) { c.Window = 4 })
	w.send("1", "2", "3")
	dying := make(chan *ipc.Channel, 1)
	dying <- w.Worker(func(sock net.Conn) {
		ipctest.ReadFrame(sock)
		sock.Write(frame.Append(nil, nil))
		ipctest.ReadFrame(sock)
		(<-dying).Close("the worker died")
	})
	var c ipctest.Collector
	ipctest.Eventually(t, "it has died", func() bool { n, _, _ := w.Q.Depth(); return n == 2 })
	w.Worker(ipctest.Answering(c.Add))
	c.Expect(t, "2", "3")
	if n := w.src.Stats().Retried.Load(); n != 1 {
		t.Errorf("retried %d, want 1", n)
	}
}

func BenchmarkSource(b *testing.B) {
	w := newWorld(b, nil)
	for range 2 {
		w.Worker(ipctest.Answering(func([]byte) []byte { return frame.Append(nil, nil) }))
	}
	body := make([]byte, 100)
	b.ReportAllocs()
	began := time.Now()
	for b.Loop() {
		if err := Send(w.key, body); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "messages/s")
}

// A crowd is a source whose messages always wait.
type crowd struct {
	stats ipc.SourceStats
	flow  ipc.Flow
	room  chan bool // as many as may be under way
}

func (c *crowd) Settled(d *ipc.Delivery, _ []byte) { d.Release(); <-c.room }
func (c *crowd) Flush()                            {}

func (c *crowd) push(q *ipc.Queue, until <-chan struct{}) {
	for {
		select {
		case c.room <- true:
			q.Submit([]*ipc.Delivery{ipc.NewDelivery(c, &c.flow, []byte("other"))}) // there is room for all of them
		case <-until:
			return
		}
	}
}

// Where others' messages always wait, a queue's have their turn, one at a time.
func TestAmongOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *ipc.Config) { c.Window = 1 })
	others := crowd{room: make(chan bool, 50)}
	others.flow = ipc.NewFlow(&ipc.Lane{Source: &others.stats})
	until, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with the test
		defer close(ended)
		others.push(w.Q, until)
	}()
	defer func() { close(until); <-ended }()
	ipctest.Eventually(t, "others wait", func() bool { n, _, _ := w.Q.Depth(); return n == 50 })
	for i := range 20 {
		w.send(fmt.Sprint(i))
	}
	var most atomic.Int64
	w.Worker(ipctest.Answering(func(b []byte) []byte {
		most.Store(max(most.Load(), w.src.unsettled.Load()))
		for n := 0; n < 40 && !ipctest.IsClosed(until); n, _, _ = w.Q.Depth() { // the crowd is back
			time.Sleep(10 * time.Microsecond)
		}
		return frame.Append(nil, b)
	}))
	ipctest.Eventually(t, "all are handled", func() bool { return w.src.Stats().Handled.Load() == 20 })
	if most.Load() != 1 {
		t.Errorf("%d of them were in memory at a time", most.Load())
	}
}
