package ipc

import "sync"

// A taking is the state of a source that takes messages in one goroutine: not
// yet, now, or no more.
type taking struct {
	mu     sync.Mutex
	begun  bool
	halted chan struct{} // closed when it is time to stop
	ended  chan struct{} // closed when nothing is taken any more
}

func (t *taking) init() { t.halted, t.ended = make(chan struct{}), make(chan struct{}) }

// begin reports whether there is anything to begin. If so, end must follow.
func (t *taking) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = !t.isHalted()
	return t.begun
}

func (t *taking) end() { close(t.ended) }

// halt may be called more than once, and before begin.
func (t *taking) halt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isHalted() {
		return
	}
	close(t.halted)
	if !t.begun {
		close(t.ended)
	}
}

func (t *taking) isHalted() bool { return isClosed(t.halted) }

// Free returns how many messages, of how many bytes, workers have room for
// while nothing waits, at most limit. If that is none, more is closed when it is
// worth asking again. It is for sources that leave the rest where it is. What
// two of them were told at the same time waits in the queue.
func (q *Queue) Free(limit int) (messages, bytes int, more <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, 0, nil
	}
	if q.waiting.n == 0 {
		for _, some := range [][]*Channel{q.idle, q.busy} {
			for _, c := range some {
				messages += c.win.size - c.flight.n
				bytes += windowBytes - c.flight.bytes
				if messages >= limit {
					return limit, bytes, nil
				}
			}
		}
	}
	if messages > 0 {
		return messages, bytes, nil
	}
	change := make(chan struct{})
	q.watch = append(q.watch, change)
	return 0, 0, change
}

// crowded reports whether messages wait for workers.
func (q *Queue) crowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.closed && q.waiting.n > 0
}
