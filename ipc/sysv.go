package ipc

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc/frame"
)

// A sysv is a System V message queue as a source. What no worker is free for
// stays in the kernel, and survives there; but for one message at most, which
// may arrive in a call that has begun to wait while a worker was free.
type sysv struct {
	url    *URL
	queue  *Queue
	stats  SourceStats
	taking taking

	gone, oversized *rated // each may come at any rate, and hide the other

	// The taker's own.
	id  int
	buf []byte // the type of a message, then its text
	mending
	more <-chan struct{} // closed when it is worth asking for room again

	thread    atomic.Int32  // that waits in the kernel, or is about to; 0: none
	unsettled atomic.Int64  // messages that were taken
	settled   chan struct{} // 1: there are none of them any more
}

// openSysV opens the queue, or makes it.
func openSysV(u *URL, q *Queue, log zerolog.Logger) (Source, error) {
	s := &sysv{url: u, queue: q, gone: newRated(log), oversized: newRated(log), settled: make(chan struct{}, 1)}
	s.stats.Name = u.Name
	s.taking.init()
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", u.Name, err)
	}
	s.buf = make([]byte, typeSize+min(msgmax(), q.cfg.MaxMessage))
	return s, nil
}

// open finds the queue, or makes it. To take messages from somebody else's
// queue the permission to read is enough.
func (s *sysv) open() (err error) {
	for {
		id, err := msgget(s.url.key, 0o400)
		if err == unix.ENOENT {
			id, err = msgget(s.url.key, unix.IPC_CREAT|unix.IPC_EXCL|int(s.url.mode))
		}
		switch err {
		case nil:
			s.id = id
			s.isThere()
			return nil
		case unix.EEXIST: // made by somebody else between the two
		case unix.EACCES:
			return fmt.Errorf("the queue is there, but uid %d may not read it (ipcs -q shows whose it is): %w", os.Geteuid(), err)
		default:
			return err
		}
	}
}

// Stats implements Source.
func (s *sysv) Stats() *SourceStats { return &s.stats }

// Serve implements Source.
func (s *sysv) Serve() {
	if !s.taking.begin() {
		return
	}
	defer s.taking.end()
	var batch [batchSize]*Delivery
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

// awaitWorker waits until the queue is there, and a worker has room and nobody
// waits for it, and returns how much room there is. It returns 0 when it is time
// to stop. Where messages of others always wait, it is this source's turn now and then:
// with one message, when it has no other here.
func (s *sysv) awaitWorker() (messages, bytes int) {
	for s.mend(); !s.taking.isHalted(); s.mend() {
		if s.more == nil || isClosed(s.more) { // else nothing has changed; each Free adds somebody to be told
			messages, bytes, s.more = s.queue.Free(batchSize)
			if messages > 0 {
				return messages, bytes
			}
		}
		for !isClosed(s.more) && !s.taking.isHalted() && !s.lost {
			if s.unsettled.Load() == 0 && s.queue.crowded() {
				return 1, windowBytes
			}
			s.tend(s.more)
		}
	}
	return 0, 0
}

// take takes messages, as many as there are and room is for. It waits for the
// first of them, unless it is time to stop.
func (s *sysv) take(batch []*Delivery, room int) (n int, err error) {
	for n < len(batch) && room > 0 {
		var d *Delivery
		size, err := s.receive(n == 0)
		if err == nil {
			d = NewDelivery(s, &s.stats, s.buf[typeSize:typeSize+size])
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
			room -= len(d.frame)
		}
	}
	return n, nil
}

func (s *sysv) receive(wait bool) (size int, err error) {
	if wait {
		return s.await()
	}
	return msgrcv(s.id, s.buf, unix.IPC_NOWAIT)
}

// await takes a message and waits for it. The thread must not change between
// saying which one it is and waiting: it is what interrupt interrupts.
func (s *sysv) await() (size int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s.thread.Store(int32(unix.Gettid()))
	defer s.thread.Store(0)
	if s.taking.isHalted() {
		return 0, unix.EINTR
	}
	return msgrcv(s.id, s.buf, 0)
}

// takeLarge takes a message that does not fit the buffer, and would stand in
// front of all others for ever. It returns nil if that is not to be delivered,
// or the buffer is larger now.
func (s *sysv) takeLarge() (*Delivery, error) {
	had := len(s.buf) - typeSize
	if most := min(msgmax(), s.queue.cfg.MaxMessage); most > had {
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
		d := NewDelivery(s, &s.stats, buf[typeSize:typeSize+n])
		if n > s.queue.cfg.MaxMessage {
			s.quarantine(d)
			return nil, nil
		}
		return d, nil
	}
}

// quarantine puts an oversized message where the given-up ones are. Without
// such a place it is lost.
func (s *sysv) quarantine(d *Delivery) {
	s.stats.Received.Add(1)
	s.stats.FramesTooBig.Add(1)
	why := fmt.Sprintf("it has %d bytes, and --max-message is %d", len(d.Body()), s.queue.cfg.MaxMessage)
	s.unsettled.Add(1) // until reject
	s.oversized.warn("oversized messages taken out of the queue", why)
	s.queue.reject(d, frame.TooBig, why)
}

func (s *sysv) submit(batch []*Delivery) {
	s.stats.Received.Add(uint64(len(batch)))
	s.unsettled.Add(int64(len(batch)))
	for {
		n := s.queue.Submit(batch)
		if batch = batch[n:]; len(batch) == 0 {
			return
		}
		room := s.queue.Room() // which the end of the queue makes, too
		s.wait(room)
		<-room // a stop ends wait, but what was taken goes on to wait
	}
}

// Settled implements Origin: no sender waits for the result.
func (s *sysv) Settled(d *Delivery, _ []byte) {
	d.Release()
	if s.unsettled.Add(-1) == 0 {
		select {
		case s.settled <- struct{}{}:
		default:
		}
	}
}

// Flush implements Origin.
func (s *sysv) Flush() {}

// interruptTick is how often a thread in the kernel is told to come out: the
// signal is lost if it comes just before the call.
const interruptTick = time.Millisecond

// Drain implements Source: nothing is taken any more, and what is in the queue
// waits there for the next start.
func (s *sysv) Drain(ctx context.Context) {
	s.taking.halt()
	tick := time.NewTicker(interruptTick)
	defer tick.Stop()
	for {
		if tid := s.thread.Load(); tid != 0 {
			// Go's own signal, which it takes at any time. Should the thread do something else by
			// now, nothing happens.
			_ = unix.Tgkill(os.Getpid(), int(tid), unix.SIGURG)
		}
		select {
		case <-s.taking.ended:
			return
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Close implements Source.
func (s *sysv) Close() { s.Drain(context.Background()) }

// Linger implements Source: senders hear of nothing.
func (s *sysv) Linger(context.Context) {}
