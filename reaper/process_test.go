package reaper

import "testing"

// That /proc does not show a process says nothing: there may be no /proc, or one
// that hides processes of other users.
func TestExitingWithoutProc(t *testing.T) {
	p := &Process{pid: 1 << 30, done: make(chan struct{})} // more than a kernel's PIDs
	if p.Exiting() {
		t.Error("not reaped, and yet taken to have ended")
	}
	close(p.done)
	if !p.Exiting() {
		t.Error("reaped, and yet taken to be alive")
	}
}
