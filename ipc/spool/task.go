package spool

import (
	"sync"
	"time"
)

// A task is what the disk is asked for: to write a file, to remove another one when
// that is written, or one of both.
type task struct {
	kind   string // of the file: undelivered or givenUp; "": write none
	name   string // the file's, if there is one already
	header header
	body   []byte // may be used until done is called
	old    string // the file to remove; "": none

	done   func(kept bool) // is told once whether the disk has done it
	answer func()          // is called once, after done or when the disk hangs; or nil

	size   int // of the memory that it holds within the limits
	err    error
	mu     sync.Mutex // guards isOver, also while body is used
	isOver bool       // done has been called
}

// image returns the contents of the file, or nil if it is not needed any more.
func (t *task) image() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isOver {
		return nil
	}
	t.header.Kept = time.Now()
	return appendFile(nil, t.header, t.body)
}

// finish says how it ended, unless that was said before.
func (t *task) finish(kept bool) (first bool) {
	t.mu.Lock()
	first = !t.isOver
	t.isOver = true
	t.mu.Unlock()
	if first && t.done != nil {
		t.done(kept)
	}
	return first
}
