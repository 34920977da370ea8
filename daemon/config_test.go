package daemon

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// As many workers as CPUs that the pool may use, which are not those of the machine.
func TestWorkersAuto(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	for _, cpus := range []int{1, before, runtime.NumCPU() + 3} {
		runtime.GOMAXPROCS(cpus)
		var text bytes.Buffer
		workers := new(Config).workers(testLogger(&text))
		if workers != cpus || !strings.Contains(text.String(), "--workers auto") || !strings.Contains(text.String(), fmt.Sprintf(`"workers":%d`, cpus)) {
			t.Errorf("%d workers, want %d; log %q", workers, cpus, text.String())
		}
	}
}

// Whose word the number is, is said. The Go runtime takes no other than a positive one.
func TestWorkersAutoSaysWhose(t *testing.T) {
	for value, want := range map[string]string{
		"3": "using GOMAXPROCS", "": "using the CPU limit of the cgroup", "0": "using the CPU limit of the cgroup",
		"-1": "using the CPU limit of the cgroup", "many": "using the CPU limit of the cgroup", "99999999999": "using the CPU limit of the cgroup",
	} {
		t.Setenv("GOMAXPROCS", value)
		var text bytes.Buffer
		new(Config).workers(testLogger(&text))
		if !strings.Contains(text.String(), want) {
			t.Errorf("GOMAXPROCS=%s: %q, want %q", value, text.String(), want)
		}
	}
}
