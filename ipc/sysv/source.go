package sysv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ratelog"
)

// batchSize is how many messages are taken and submitted at a time.
const batchSize = 64

// A config is what a URL says about a source.
type config struct {
	name string
	key  uint32
	mode fs.FileMode // of a queue that is made

	modeGiven bool // the URL has it

	priority int
	expires  time.Duration // 0: never

	lookEvery time.Duration // see the constant
}

// Parse reads the address of a sysv:// source, and returns what opens it. The
// error says what is allowed.
func Parse(a ipc.Address) (ipc.Opener, error) {
	c, err := parse(a)
	if err != nil {
		return nil, err
	}
	return func(q *ipc.Queue, log zerolog.Logger) (ipc.Source, error) { return open(c, q, log) }, nil
}

func parse(a ipc.Address) (config, error) {
	key, err := strconv.ParseUint(a.Host, 0, 32)
	if err != nil || key == 0 || a.Path != "" {
		return config{}, errors.New("sysv://KEY, a number from 1 to 0xffffffff as ftok(3) makes it, such as sysv://0x7000001")
	}
	c := config{name: a.Name, key: uint32(key), mode: defaultMode, lookEvery: lookEvery}
	mode := ipc.ModeParameter(&c.mode)
	set := mode.Set
	mode.Set = func(s string) error {
		c.modeGiven = true
		return set(s)
	}
	err = a.Set(append([]ipc.Parameter{mode}, ipc.LaneParameters(&c.priority, &c.expires)...))
	return c, err
}

// allMay lets all users send and take messages.
const allMay = 0o006

// defaultMode lets only poolinit's user send.
const defaultMode = 0o600

// A source is a System V message queue. It implements ipc.Source.
type source struct {
	config
	queue *ipc.Queue
	stats ipc.SourceStats
	flow  ipc.Flow
	loop  *ipc.Loop

	gone, oversized, foreign *ratelog.Log // each may come at any rate, and hide the others

	// The taker's own.
	id  int
	buf []byte // the type of a message, then its text
	mending
	more <-chan struct{} // closed when it is worth asking for room again

	thread    atomic.Int32  // that waits in the kernel, or is about to; 0: none
	unsettled atomic.Int64  // messages that were taken
	settled   chan struct{} // 1: there are none of them any more
}

// open opens the queue, or makes it.
func open(c config, q *ipc.Queue, log zerolog.Logger) (ipc.Source, error) {
	s := &source{
		config: c, queue: q, loop: ipc.NewLoop(),
		gone: ratelog.New(log), oversized: ratelog.New(log), foreign: ratelog.New(log), settled: make(chan struct{}, 1),
	}
	s.stats.Name = c.name
	s.flow = ipc.NewFlow(&ipc.Lane{Source: &s.stats, Priority: c.priority, Expires: c.expires, Unheard: true})
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", c.name, err)
	}
	s.buf = make([]byte, typeSize+min(msgmax(), q.MaxMessage()))
	return s, nil
}

// open finds the queue, or makes it. To take messages from another
// user's queue the permission to read is enough.
func (s *source) open() (err error) {
	for {
		id, err := msgget(s.key, 0o400)
		switch err {
		case nil:
			if err := s.check(id); err != nil {
				return err
			}
		case unix.ENOENT:
			id, err = msgget(s.key, unix.IPC_CREAT|unix.IPC_EXCL|int(s.mode))
		}
		switch err {
		case nil:
			s.id = id
			s.isThere(s.lookEvery)
			return nil
		case unix.EEXIST: // made by another process between the two
		case unix.EACCES:
			return fmt.Errorf("the queue is there, but uid %d may not read it (ipcs -q shows whose it is): %w", os.Geteuid(), err)
		default:
			return err
		}
	}
}

// check looks at a queue that was there already. If another user has made it, that
// user may read and remove what others send, and may have let all others send: that
// is a warning, or an error if the URL asks for a mode that does not let all users
// do so. poolinit's own gets the mode that the URL asks for.
func (s *source) check(id int) error {
	st, err := state(id)
	switch uid := uint32(os.Geteuid()); {
	case err == unix.EIDRM || err == unix.EINVAL:
		return nil // removed since then: whoever uses it next finds out
	case err != nil:
		return err
	case st.uid == uid && st.cuid == uid:
		if s.modeGiven && st.mode&0o777 != uint32(s.mode) {
			return setMode(id, st, uint32(s.mode))
		}
		return nil
	case s.modeGiven && (st.mode&0o777&^uint32(s.mode) != 0 || s.mode&allMay != allMay):
		return fmt.Errorf("the queue is there already, made by uid %d with mode %04o, and mode=%04o was asked for: remove it (ipcrm -Q %#x), or leave mode= out",
			st.cuid, st.mode&0o777, s.mode, s.key)
	}
	s.foreign.Warn("System V queue belongs to another user, using it", fmt.Sprintf("made by uid %d, owner uid %d, mode %04o; poolinit runs as uid %d", st.cuid, st.uid, st.mode&0o777, os.Geteuid()))
	return nil
}

// Stats implements ipc.Source.
func (s *source) Stats() *ipc.SourceStats { return &s.stats }

// Serve implements ipc.Source.
func (s *source) Serve() {
	if !s.loop.Begin() {
		return
	}
	defer s.loop.End()
	var batch [batchSize]*ipc.Delivery
	for {
		messages, bytes := s.awaitWorker()
		if messages == 0 {
			return
		}
		n, err := s.take(batch[:messages], bytes)
		if err != nil {
			s.lose(err) // before submit, which may wait long, and mends
		}
		if n > 0 {
			s.submit(batch[:n])
		}
	}
}

// awaitWorker waits until the queue is there, and a worker has room that no other
// message waits for, and returns how much room there is. It returns 0 when it is
// time to stop. Where messages of others always wait, it is this source's turn
// whenever it has no message in memory: with one.
func (s *source) awaitWorker() (messages, bytes int) {
	for s.mend(); !s.loop.IsStopped(); s.mend() {
		if s.more == nil || isClosed(s.more) { // otherwise nothing has changed; each Free adds a channel to be closed
			messages, bytes, s.more = s.queue.Free(batchSize)
			if messages > 0 {
				return messages, bytes
			}
		}
		for !isClosed(s.more) && !s.loop.IsStopped() && !s.lost {
			if s.unsettled.Load() == 0 && s.queue.Crowded() {
				return 1, 1
			}
			s.tend(s.more)
		}
	}
	return 0, 0
}

// take takes messages, as many as there are and room is for. It waits for the
// first of them, unless it is time to stop.
func (s *source) take(batch []*ipc.Delivery, room int) (n int, err error) {
	for n < len(batch) && room > 0 {
		var d *ipc.Delivery
		size, err := s.receive(n == 0)
		if err == nil {
			d = ipc.NewDelivery(s, &s.flow, s.buf[typeSize:typeSize+size])
		} else if err == unix.E2BIG {
			d, err = s.takeLarge()
		}
		switch {
		case err == unix.ENOMSG || err == unix.EINTR:
			return n, nil
		case err != nil:
			return n, err
		case d != nil:
			batch[n] = d
			n++
			room -= d.Size()
		}
	}
	return n, nil
}

func (s *source) receive(wait bool) (size int, err error) {
	if wait {
		return s.await()
	}
	return msgrcv(s.id, s.buf, unix.IPC_NOWAIT)
}

// await takes a message and waits for it. The thread must not change between
// saying which one it is and waiting: it is what interrupt interrupts.
func (s *source) await() (size int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s.thread.Store(int32(unix.Gettid()))
	defer s.thread.Store(0)
	if s.loop.IsStopped() {
		return 0, unix.EINTR
	}
	return msgrcv(s.id, s.buf, 0)
}

// takeLarge takes a message that does not fit the buffer, and would stand in
// front of all others for ever. It returns nil if that is not to be delivered,
// or the buffer is larger now.
func (s *source) takeLarge() (*ipc.Delivery, error) {
	had := len(s.buf) - typeSize
	if most := min(msgmax(), s.queue.MaxMessage()); most > had {
		s.buf = make([]byte, typeSize+most) // the kernel's limit was raised
		return nil, nil
	}
	for size := max(msgmax(), 2*had); ; size *= 2 { // that may have been lowered since the message was sent
		buf := make([]byte, typeSize+size)
		n, err := msgrcv(s.id, buf, unix.IPC_NOWAIT)
		switch {
		case err == unix.E2BIG:
			continue
		case err != nil:
			return nil, err
		}
		d := ipc.NewDelivery(s, &s.flow, buf[typeSize:typeSize+n])
		if n > s.queue.MaxMessage() {
			s.quarantine(d)
			return nil, nil
		}
		return d, nil
	}
}

// quarantine puts an oversized message where the given-up ones are. Without
// such a place it is lost.
func (s *source) quarantine(d *ipc.Delivery) {
	s.stats.Received.Add(1)
	s.stats.FramesTooBig.Add(1)
	why := fmt.Sprintf("it has %d bytes, and --max-message is %d", len(d.Body()), s.queue.MaxMessage())
	s.unsettled.Add(1) // until Reject
	s.oversized.Warn("oversized messages removed from the queue", why)
	s.queue.Reject(d, frame.TooBig, why)
}

func (s *source) submit(batch []*ipc.Delivery) {
	s.stats.Received.Add(uint64(len(batch)))
	s.unsettled.Add(int64(len(batch)))
	for {
		n := s.queue.Submit(batch)
		if batch = batch[n:]; len(batch) == 0 {
			return
		}
		room := s.queue.Room(&s.flow) // which the end of the queue makes, too
		s.wait(room)
		<-room // a stop ends wait, but what was taken goes on to wait
	}
}

// Settled implements ipc.Origin: no sender waits for the result.
func (s *source) Settled(d *ipc.Delivery, _ []byte) {
	d.Release()
	if s.unsettled.Add(-1) == 0 {
		select {
		case s.settled <- struct{}{}:
		default:
		}
	}
}

// Flush implements ipc.Origin.
func (s *source) Flush() {}

// interruptTick is how often a thread in the kernel is told to come out: the
// signal is lost if it comes just before the call.
const interruptTick = time.Millisecond

// Drain implements ipc.Source: nothing is taken any more, and what is in the queue
// waits there for the next start.
func (s *source) Drain(ctx context.Context) {
	s.loop.Stop()
	tick := time.NewTicker(interruptTick)
	defer tick.Stop()
	for {
		if tid := s.thread.Load(); tid != 0 {
			// Go's own signal, which it takes at any time. If the thread has
			// returned from the call by now, nothing happens.
			_ = unix.Tgkill(os.Getpid(), int(tid), unix.SIGURG)
		}
		select {
		case <-s.loop.Ended():
			return
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Close implements ipc.Source.
func (s *source) Close() { s.Drain(context.Background()) }

// Linger implements ipc.Source: senders hear of nothing.
func (s *source) Linger(context.Context) {}
