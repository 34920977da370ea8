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

// slowAnswer is what counts as slow by itself. A worker that shares its CPU with
// others is off it for a few milliseconds at a time, and a window that fell to 1
// each time would cost a write for each of the next messages; the mean sees it
// where it is the rule.
const slowAnswer = 10 * time.Millisecond

// heldFor is how many messages a slow answer narrows the window for, for each
// autoAhead that it took: a message of 200 ms that comes once in a few hundred
// must not have others behind it.
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
	held  int           // messages for which it stays at 1, because of a slow answer
}

// newWindow returns a fixed window, or for 0 one that starts at 1 and adapts.
func newWindow(fixed int) window {
	if fixed > 0 {
		return window{size: fixed, fixed: true}
	}
	return window{size: 1}
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
	most := maxAutoWindow
	if held := int(min(heldFor*slowest/autoAhead, maxHeld)); slowest >= slowAnswer && held >= w.held {
		w.held = held
	} else {
		w.held = max(0, w.held-n)
	}
	if w.held > 0 {
		most = 1
	}
	grown := min(w.size*2, most)
	if !w.begun {
		w.begun, grown = true, w.size
	}
	w.size = max(1, min(grown, int(autoAhead/max(each, 1))))
}

// turnPart is the part of a window that one flow may fill in its turn.
const turnPart = 2
