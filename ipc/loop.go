package ipc

import "sync"

// A Loop is the life of a source that takes messages in one goroutine: not begun,
// running, stopped. It may be stopped before it begins, and then never does.
type Loop struct {
	mu      sync.Mutex
	begun   bool
	isOver  bool
	stopped chan struct{}
	ended   chan struct{}
}

// NewLoop returns a loop that has not begun.
func NewLoop() *Loop { return &Loop{stopped: make(chan struct{}), ended: make(chan struct{})} }

// Begin reports whether the loop may begin. If so, End must follow.
func (l *Loop) Begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun = !l.isOver
	return l.begun
}

// End says that nothing is taken any more.
func (l *Loop) End() { close(l.ended) }

// Stop asks the loop to end. It does not wait, and may be called more than once.
func (l *Loop) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isOver {
		return
	}
	l.isOver = true
	close(l.stopped)
	if !l.begun {
		close(l.ended)
	}
}

// IsStopped reports whether Stop has been called.
func (l *Loop) IsStopped() bool {
	select {
	case <-l.stopped:
		return true
	default:
		return false
	}
}

// Stopped returns a channel that is closed by Stop.
func (l *Loop) Stopped() <-chan struct{} { return l.stopped }

// Ended returns a channel that is closed when nothing is taken any more.
func (l *Loop) Ended() <-chan struct{} { return l.ended }
