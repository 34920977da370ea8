package ipc

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/strict"
	"github.com/poolinit/poolinit/ipc/frame"
)

// A sysvWorld is a world with a System V queue that nobody else knows.
type sysvWorld struct {
	*world
	src *sysv
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

func newSysVWorld(t testing.TB, change func(*Config)) *sysvWorld {
	t.Helper()
	w := &sysvWorld{world: newWorld(t, "", change), key: newKey(t)}
	w.src = w.openSysV()
	w.ended.Go(w.src.Serve)
	t.Cleanup(w.stop)
	return w
}

func sysvURL(t testing.TB, key uint32) *URL {
	t.Helper()
	u, err := ParseURL(fmt.Sprintf("sysv://%#x?mode=0600", key))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (w *sysvWorld) openSysV() *sysv {
	w.t.Helper()
	src, err := Open(sysvURL(w.t, w.key), w.q, zerolog.New(w))
	if err != nil {
		w.t.Fatal(err)
	}
	return src.(*sysv)
}

func (w *sysvWorld) stop() {
	w.q.Close()
	w.src.Close()
}

func (w *sysvWorld) send(bodies ...string) {
	w.t.Helper()
	for _, body := range bodies {
		if err := SendSysV(w.key, []byte(body)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// depth returns how many messages are in the queue.
func (w *sysvWorld) depth() int {
	w.t.Helper()
	text, err := os.ReadFile("/proc/sysvipc/msg")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == strconv.Itoa(int(int32(w.key))) {
			n, _ := strconv.Atoi(f[4])
			return n
		}
	}
	return -1
}

// A collector is a worker that keeps what it gets, and answers when it may.
type collector struct {
	mu  sync.Mutex
	got []string
}

func (c *collector) add(body []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, string(body))
	return frame.Append(nil, nil)
}

func (c *collector) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.got...)
}

func (c *collector) expect(t testing.TB, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("messages %.200q", want), func() bool { return fmt.Sprint(c.all()) == fmt.Sprint(want) })
}

func TestSysVDelivers(t *testing.T) {
	w := newSysVWorld(t, nil)
	var c collector
	w.worker(answering(c.add))
	long := strings.Repeat("x", min(msgmax(), 8192))
	w.send("a", "", "c\x00d", long)
	c.expect(t, "a", "", "c\x00d", long)
	// Any type, in the order in which they came.
	id, _ := msgget(w.key, 0)
	for i, kind := range []byte{9, 1, 77} {
		if err := msgsnd(id, []byte{kind, 0, 0, 0, 0, 0, 0, 0, '0' + byte(i)}, 0); err != nil {
			t.Fatal(err)
		}
	}
	c.expect(t, "a", "", "c\x00d", long, "0", "1", "2")
	stats := w.src.Stats()
	eventually(t, "all are counted", func() bool { return stats.Received.Load() == 7 && stats.Handled.Load() == 7 })
}

// What no worker is free for stays in the kernel.
func TestSysVTakesOnlyWhatHasAWorker(t *testing.T) {
	w := newSysVWorld(t, func(c *Config) { c.Window = 2 })
	for i := range 10 {
		w.send(strconv.Itoa(i))
	}
	_, _, more := w.q.Free(1) // looks as the source does
	if w.depth() != 10 || isClosed(more) {
		t.Fatalf("%d in the kernel without a worker, want 10", w.depth())
	}
	let := make(chan int)
	w.worker(func(sock net.Conn) {
		for n := range let {
			for range n {
				if _, _, err := readFrame(sock); err != nil {
					return
				}
			}
			sock.Write(bytes.Repeat(frame.Append(nil, nil), n))
		}
	})
	defer close(let)
	waiting := func(kernel, flight int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d in the kernel, %d with the worker, none between", kernel, flight), func() bool {
			n, _, flying := w.q.Depth()
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
func TestSysVOneTooMany(t *testing.T) {
	w := newSysVWorld(t, nil)
	c := w.worker(answering(echo))
	eventually(t, "the source waits in the kernel", func() bool { return w.src.thread.Load() != 0 })
	c.Finish()
	w.send("1", "2", "3")
	eventually(t, "one is taken", func() bool { n, _, _ := w.q.Depth(); return n == 1 && w.depth() == 2 })
	var next collector
	w.worker(answering(next.add))
	next.expect(t, "1", "2", "3")
}

// An end while a thread waits in the kernel, again and again: it comes out.
func TestSysVDrainInterrupts(t *testing.T) {
	w := newSysVWorld(t, nil)
	w.worker(answering(echo))
	for i := range 200 {
		w.src.Close()
		w.src = w.openSysV()
		ended := make(chan struct{})
		go func() { // ends with the source
			w.src.Serve()
			close(ended)
		}()
		if i%2 == 0 { // else it may not have begun
			eventually(t, "the source waits in the kernel", func() bool { return w.src.thread.Load() != 0 })
		}
		w.src.Drain(context.Background())
		<-ended
	}
	w.send("stays")
	if w.depth() != 1 {
		t.Errorf("%d messages in the queue, want 1", w.depth())
	}
}

func TestSysVRemoved(t *testing.T) {
	w := newSysVWorld(t, nil)
	var c collector
	w.worker(answering(c.add))
	var want []string
	for i := range 3 { // with a wait from the second time on
		eventually(t, "the source waits in the kernel", func() bool { return w.src.thread.Load() != 0 })
		removeQueue(w.key)
		eventually(t, "the queue is there again", func() bool { return w.depth() >= 0 })
		w.send(strconv.Itoa(i))
		want = append(want, strconv.Itoa(i))
		c.expect(t, want...)
	}
	if n := w.src.Stats().Remade.Load(); n != 3 {
		t.Errorf("made again %d times, want 3", n)
	}
	if n := strings.Count(w.text(), "System V queue lost"); n < 1 || n > 2 { // one in ten seconds
		t.Errorf("%d lines in the log, want 1: %s", n, w.text())
	}
}

// A queue that is removed again and again is waited for longer and longer, but
// not by a stop.
func TestSysVDrainWhileRemoved(t *testing.T) {
	w := newSysVWorld(t, nil)
	w.worker(answering(echo))
	var over atomic.Bool
	var enemy sync.WaitGroup
	enemy.Go(func() {
		for !over.Load() {
			removeQueue(w.key)
		}
	})
	eventually(t, "it was made again twice", func() bool { return w.src.Stats().Remade.Load() >= 2 })
	w.src.Drain(context.Background())
	over.Store(true)
	enemy.Wait()
	if n := w.src.Stats().Remade.Load(); n > 10 {
		t.Errorf("made again %d times: it does not wait", n)
	}
}

func (w *world) text() string {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return w.log.String()
}

func TestSysVOversized(t *testing.T) {
	for _, spool := range []bool{false, true} {
		type bad struct {
			size   int
			reason string
		}
		quarantined := make(chan bad, 10)
		w := newSysVWorld(t, func(c *Config) {
			c.MaxMessage = 100
			if spool {
				c.GivenUp = func(d *Delivery, reason string) { quarantined <- bad{len(d.Body()), reason} }
			}
		})
		w.send("first", strings.Repeat("x", 101), strings.Repeat("y", 100), strings.Repeat("z", 8192), "last")
		var c collector
		w.worker(answering(c.add))
		c.expect(t, "first", strings.Repeat("y", 100), "last")
		stats := w.src.Stats()
		eventually(t, "all are counted", func() bool {
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
func TestSysVLimitRaised(t *testing.T) {
	inOwnIPC(t, func() {
		// A goroutine of its own would be in the other namespace: the source is driven by hand.
		w := &sysvWorld{world: newWorld(t, "", func(c *Config) { c.MaxMessage = 20_000 }), key: newKey(t)}
		src := w.openSysV()
		setLimit(t, "msgmnb", 1<<20)
		setLimit(t, "msgmax", 100_000)
		id, _ := msgget(w.key, 0)
		setQueueBytes(t, id, 1<<20)
		var c collector
		w.worker(answering(c.add))
		fits, tooBig := strings.Repeat("a", 20_000), strings.Repeat("b", 50_000)
		w.send("x", fits, tooBig, fits)
		setLimit(t, "msgmax", 10_000) // and lowered
		w.send("y")
		for w.depth() > 0 {
			var batch [batchSize]*Delivery
			n, err := src.take(batch[:], 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			src.submit(batch[:n])
		}
		got := c.all
		eventually(t, "all that fits", func() bool { return len(got()) == 4 })
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
	onOwnThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWIPC); err == nil {
			f()
		}
	})
	if err != nil {
		strict.Skip(t, "no permission to make an IPC namespace: %v", err)
	}
}

// onOwnThread calls f on a thread that ends with it.
func onOwnThread(f func()) {
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // for ever
		f()
	})
	done.Wait()
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

// Somebody else's queue: a clear error, unless reading it is allowed.
func TestSysVSomebodyElses(t *testing.T) {
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
		u := sysvURL(t, key)
		onOwnThread(func() {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
				t.Error(errno)
				return
			}
			_, err := Open(u, NewQueue(sane(nil), zerolog.Nop()), zerolog.Nop())
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("mode %o: %v", mode, err)
			}
			err = SendSysV(key, []byte("x"))
			if mayWrite := mode&2 != 0; mayWrite != (err == nil) {
				t.Errorf("sending with mode %o: %v", mode, err)
			}
		})
	}
}

func TestSendSysVErrors(t *testing.T) {
	key := newKey(t)
	if err := SendSysV(key, nil); err == nil || !strings.Contains(err.Error(), "there is no such queue") {
		t.Errorf("absent queue: %v", err)
	}
	if _, err := msgget(key, unix.IPC_CREAT|0o600); err != nil {
		t.Fatal(err)
	}
	err := SendSysV(key, make([]byte, msgmax()+1))
	if want := fmt.Sprintf("the message has %d bytes, and the kernel takes %d (kernel.msgmax)", msgmax()+1, msgmax()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("long message: %v", err)
	}
}

// Sending waits while the queue is full.
func TestSendSysVWaits(t *testing.T) {
	w := newSysVWorld(t, nil)
	const n = 5000
	var sender sync.WaitGroup
	sender.Go(func() {
		for i := range n {
			w.send(strconv.Itoa(i))
		}
	})
	eventually(t, "the queue is full", func() bool { return w.depth() > 100 })
	var c collector
	w.worker(answering(c.add))
	sender.Wait()
	eventually(t, "all of them", func() bool { return len(c.all()) == n })
	for i, got := range c.all() {
		if got != strconv.Itoa(i) {
			t.Fatalf("message %d is %q", i, got)
		}
	}
}

// A worker that dies: its messages are delivered again, and nothing twice that
// was answered.
func TestSysVRedelivers(t *testing.T) {
	w := newSysVWorld(t, func(c *Config) { c.Window = 4 })
	w.send("1", "2", "3")
	dying := make(chan *Channel, 1)
	dying <- w.worker(func(sock net.Conn) {
		readFrame(sock)
		sock.Write(frame.Append(nil, nil))
		readFrame(sock)
		(<-dying).Close("the worker died")
	})
	var c collector
	eventually(t, "it has died", func() bool { n, _, _ := w.q.Depth(); return n == 2 })
	w.worker(answering(c.add))
	c.expect(t, "2", "3")
	if n := w.src.Stats().Retried.Load(); n != 1 {
		t.Errorf("retried %d, want 1", n)
	}
}

func BenchmarkSysV(b *testing.B) {
	w := newSysVWorld(b, nil)
	for range 2 {
		w.worker(answering(func([]byte) []byte { return frame.Append(nil, nil) }))
	}
	body := make([]byte, 100)
	b.ReportAllocs()
	began := time.Now()
	for b.Loop() {
		if err := SendSysV(w.key, body); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "messages/s")
}

// A crowd is a source whose messages always wait.
type crowd struct {
	stats SourceStats
	room  chan bool // as many as may be under way
}

func (c *crowd) Settled(d *Delivery, _ []byte) { d.Release(); <-c.room }
func (c *crowd) Flush()                        {}

func (c *crowd) push(q *Queue, until <-chan struct{}) {
	for {
		select {
		case c.room <- true:
			q.Submit([]*Delivery{NewDelivery(c, &c.stats, []byte("other"))}) // there is room for all of them
		case <-until:
			return
		}
	}
}

// Where others' messages always wait, a queue's have their turn, one at a time.
func TestSysVAmongOthers(t *testing.T) {
	w := newSysVWorld(t, func(c *Config) { c.Window = 1 })
	others := crowd{room: make(chan bool, 50)}
	until, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with the test
		defer close(ended)
		others.push(w.q, until)
	}()
	defer func() { close(until); <-ended }()
	eventually(t, "others wait", func() bool { n, _, _ := w.q.Depth(); return n == 50 })
	for i := range 20 {
		w.send(fmt.Sprint(i))
	}
	var most atomic.Int64
	w.worker(answering(func(b []byte) []byte {
		most.Store(max(most.Load(), w.src.unsettled.Load()))
		for n := 0; n < 40 && !isClosed(until); n, _, _ = w.q.Depth() { // the crowd is back
			time.Sleep(10 * time.Microsecond)
		}
		return frame.Append(nil, b)
	}))
	eventually(t, "all are handled", func() bool { return w.src.Stats().Handled.Load() == 20 })
	if most.Load() != 1 {
		t.Errorf("%d of them were in memory at a time", most.Load())
	}
}
