package ipc

import "time"

// maxAutoWindow is how far --window auto goes. Beyond it a batch does not
// get cheaper.
const maxAutoWindow = 64

// autoAhead is how much work --window auto puts ahead of a worker.
const autoAhead = time.Millisecond

// windowBytes bounds what waits in front of one worker, beside the first
// message: more would not fit its socket anyway.
const windowBytes = 128 << 10

// A window says how many messages may be on the way to one worker at a time.
type window struct {
	size  int
	fixed bool
}

// newWindow returns a fixed window, or for 0 one that starts at 1 and adapts.
func newWindow(fixed int) window {
	if fixed > 0 {
		return window{fixed, true}
	}
	return window{size: 1}
}

// observe adapts the window to n replies that took a worker this long together.
// It doubles while messages are fast, and falls to 1 at the first slow one.
func (w *window) observe(n int, took time.Duration) {
	if w.fixed {
		return
	}
	each := took / time.Duration(n)
	if each >= autoAhead {
		w.size = 1
		return
	}
	fits := int(autoAhead / max(each, 1))
	w.size = max(1, min(w.size*2, fits, maxAutoWindow))
}
