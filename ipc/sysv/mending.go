package sysv

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lookEvery = time.Second            // between two looks at the queue while no thread is in msgrcv(2)
	pauseMin  = 100 * time.Millisecond // before the second attempt to make the queue again; doubled each time
	pauseMax  = 5 * time.Second
	healthy   = 10 * time.Second // a queue that lasted this long is made again at once
)

// A mending is what a source knows about whether its queue is there. All but
// missing is the taker's own.
type mending struct {
	opened time.Time     // the queue that is there, or was the last one
	lost   bool          // it is not there any more
	due    time.Time     // the next look at it, or the next attempt to make it if it is lost
	pause  time.Duration // before the attempt after that

	missing atomic.Pointer[string] // see Missing
}

// Missing returns why there is no queue, or "". A queue that is made again at
// once, as the first time, was not missing. It may be called from any goroutine.
func (m *mending) Missing() (why string) {
	if text := m.missing.Load(); text != nil {
		return *text
	}
	return ""
}

// isThere notes that the queue has been opened. The next look is due after every.
func (m *mending) isThere(every time.Duration) {
	m.opened, m.lost = time.Now(), false
	m.due = m.opened.Add(every)
	m.missing.Store(nil)
}

// lose notes that the queue failed, which as a rule has been removed, or that it
// could not be made again. The next attempt is due at once, or after a pause
// that grows with each.
func (s *source) lose(cause error) {
	s.gone.Warn("System V queue lost, reopening it", cause.Error())
	if !s.lost && time.Since(s.opened) > healthy {
		s.pause = 0
	}
	if s.pause > 0 {
		why := cause.Error()
		s.missing.Store(&why)
	}
	s.lost, s.due = true, time.Now().Add(s.pause)
	s.pause = min(max(2*s.pause, pauseMin), pauseMax)
}

// mend returns when the queue is there, or it is time to stop.
func (s *source) mend() {
	for s.lost && !s.loop.IsStopped() {
		s.tend(nil)
	}
}

// wait returns when ready is closed, or it is time to stop. Meanwhile no thread is
// in msgrcv(2), which would say that the queue was removed. So wait looks at the
// queue, and makes it again: workers may be busy for hours, or hang.
func (s *source) wait(ready <-chan struct{}) {
	for !isClosed(ready) && !s.loop.IsStopped() {
		s.tend(ready)
	}
}

// tend waits for ready, but not longer than until something is due, which it
// does. What is due stays so from one wait to the next: each may be short.
func (s *source) tend(ready <-chan struct{}) {
	select {
	case <-ready:
	case <-s.settled:
	case <-s.loop.Stopped():
	case <-time.After(time.Until(s.due)):
		if s.lost {
			s.reopen()
		} else {
			s.look()
		}
	}
}

// look finds out whether the queue with the key is there, and the one that was
// opened. It asks for what open does, so that it takes for lost what open
// cannot open.
func (s *source) look() {
	id, err := msgget(s.key, 0o400)
	if err == unix.ENOENT || err == nil && id != s.id {
		err = unix.EIDRM // as msgrcv says
	}
	if err != nil {
		s.lose(err)
		return
	}
	s.due = time.Now().Add(s.lookEvery)
}

// reopen makes one attempt to open the queue again, or to make it.
func (s *source) reopen() {
	old := s.id
	if err := s.open(); err != nil {
		s.lose(err)
		return
	}
	if s.id != old {
		s.stats.Remade.Add(1)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
