package proc

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestBegan(t *testing.T) {
	before := time.Now()
	c := exec.Command("sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	after := time.Now()
	began, err := Began(c.Process.Pid)
	if err != nil || began.Before(before) || began.After(after.Add(2*tick)) {
		t.Errorf("began at %s, %v; want from %s to %s", began, err, before, after)
	}
	if own, err := Began(os.Getpid()); err != nil || own.After(before.Add(2*tick)) {
		t.Errorf("this process began at %s, %v", own, err)
	}
	for _, pid := range noProcess {
		if began, err := Began(pid); err == nil {
			t.Errorf("process %d began at %s", pid, began)
		}
	}
	for _, line := range []string{"", "7 (x) S 1 2 3", "7 (x) S 1 7 7 0 -1 4 1 2 3 4 5 6 7 8 9 10 11 12 x 14"} {
		if n, err := beganTicks([]byte(line)); err == nil {
			t.Errorf("%q: %d", line, n)
		}
	}
}
