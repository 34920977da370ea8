package reaper

import (
	"os"
	"testing"
)

func TestExitingStat(t *testing.T) {
	for line, want := range map[string]bool{
		"7 (sleep) S 1 7 7 0 -1 4194304 1 2":     false,
		"7 (sleep) R 1 7 7 0 -1 4194308 1 2":     true,
		"7 (sleep) Z 1 7 7 0 -1 4194304 1 2":     true,
		"7 (a) Z 4 (b) S 1 7 7 0 -1 4194560 1 2": false,
		"7 (a) S 4 ) D 1 7 7 0 -1 4228108 1 2":   true,
		"":                                       false, "7 (sleep": false, "7 (sleep) S 1": false,
		"7 (sleep) S 1 7 7 0 -1 x 1": false,
	} {
		if got := exitingStat([]byte(line)); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
	self, err := os.ReadFile("/proc/self/stat")
	if err != nil || exitingStat(self) {
		t.Errorf("this process: %q, %v", self, err)
	}
}

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
