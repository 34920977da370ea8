package main

import (
	"syscall"
	"time"
)

// An echo tells a signal that was sent twice for one request, as timeout(1) does: to its
// child, and then to the group that it is in.
type echo struct {
	signal syscall.Signal // the last one, and when it came
	at     time.Time
}

const echoTime = 100 * time.Millisecond

// isIt notes a signal, and reports whether it is the same as the last, just before.
func (e *echo) isIt(sig syscall.Signal, at time.Time) bool {
	if sig == e.signal && at.Sub(e.at) < echoTime {
		return true
	}
	e.signal, e.at = sig, at
	return false
}
