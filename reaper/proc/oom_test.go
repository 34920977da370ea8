package proc

import (
	"os"
	"os/exec"
	"testing"
)

func TestOOMScoreAdj(t *testing.T) {
	own, err := OOMScoreAdj(os.Getpid())
	if err != nil || own < -1000 || own > MostOOMScoreAdj {
		t.Fatal(own, err)
	}
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	if err := SetOOMScoreAdj(child.Process.Pid, MostOOMScoreAdj); err != nil {
		t.Fatal(err)
	}
	if got, err := OOMScoreAdj(child.Process.Pid); got != MostOOMScoreAdj || err != nil {
		t.Error(got, err)
	}
	for _, pid := range noProcess {
		if _, err := OOMScoreAdj(pid); err == nil {
			t.Errorf("process %d has one", pid)
		}
		if SetOOMScoreAdj(pid, 0) == nil {
			t.Errorf("that of process %d was set", pid)
		}
	}
}
