package status

import (
	"os"
	"testing"
)

func TestUsageOf(t *testing.T) {
	if got := usageOf(os.Getpid()); got.RSS < 1<<20 || got.RSS > 1<<36 || got.Gone {
		t.Errorf("this process: %+v", got)
	}
	if got := usageOf(1<<22 + 1); got != (Usage{Gone: true}) {
		t.Errorf("of no process: %+v", got)
	}
}
