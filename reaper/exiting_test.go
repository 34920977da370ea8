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
