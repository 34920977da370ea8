package ipc

import "time"

// maxAutoWindow is how far --window auto goes. Beyond it a batch does not
// get cheaper.
const maxAutoWindow = 64

// autoAhead is how much work --window auto puts ahead of a worker.
const autoAhead = time.Millisecond

// windowBytes bounds what waits in front of one worker, beside the messages that
// it handles: more would not fit its socket anyway.
const windowBytes = 128 << 10

// heldFor is how many messages a slow answer narrows the window for, for each
// autoAhead that it took: a message of 200 ms that comes once in a few hundred
// must not have others behind it, and one of 2 ms costs nobody much.
const heldFor = 10

// maxHeld bounds that.
const maxHeld = 10_000

// A window says how many messages may be on the way to one worker at a time,
// beyond those that it handles at the same time but for one.
type window struct {
	size  int
	fixed bool

	begun bool          // there was an answer
	usual time.Duration // that an answer takes
	most  int           // as long as held, because of a slow answer
	held  int           // messages
}

// newWindow returns a fixed window, or for 0 one that starts at 1 and adapts.
func newWindow(fixed int) window {
	if fixed > 0 {
		return window{size: fixed, fixed: true}
	}
	return window{size: 1, most: maxAutoWindow}
}

// observe adapts the window to n replies that took a worker this long together.
// It doubles while messages are fast, from the second answer on: a worker that
// lives for one message has no other unread then. A slow answer, also one among
// many fast ones, narrows it for a while.
func (w *window) observe(n int, took time.Duration) {
	if w.fixed {
		return
	}
	each := took / time.Duration(n)
	if w.usual == 0 {
		w.usual = each
	}
	slowest := max(each, took-time.Duration(n-1)*w.usual)
	w.usual += (each - w.usual) / 8
	most := int(autoAhead / max(slowest, 1))
	if held := int(min(heldFor*slowest/autoAhead, maxHeld)); held >= w.held || most < w.most {
		w.most, w.held = max(1, most), max(held, w.held)
	} else {
		w.held -= n
	}
	if w.held <= 0 {
		w.most, w.held = maxAutoWindow, 0
	}
	grown := min(w.size*2, maxAutoWindow)
	if !w.begun {
		w.begun, grown = true, w.size
	}
	w.size = max(1, min(grown, int(autoAhead/max(each, 1)), w.most))
}

// turnPart is the part of a window that one flow may fill in its turn.
const turnPart = 4
