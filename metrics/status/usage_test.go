package status

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestResidentPages(t *testing.T) {
	for _, test := range []struct {
		line string
		want uint64
		good bool
	}{
		{"2450 310 290 5 0 120 0\n", 310, true},
		{"0 0 0 0 0 0 0\n", 0, true}, // a zombie
		{"1 274877906943 ", 1<<38 - 1, true},
		{"1 274877906944 3\n", 0, false}, // the sum of many would overflow
		{"1 -3 3\n", 0, false},
		{"1 x 3\n", 0, false},
		{"1  3\n", 0, false},
		{"1 23", 0, false}, // cut off
		{"12\n", 0, false},
		{"", 0, false},
	} {
		if got, err := residentPages([]byte(test.line)); got != test.want || (err == nil) != test.good {
			t.Errorf("%q: %d, %v", test.line, got, err)
		}
	}
}

func FuzzResidentPages(f *testing.F) {
	f.Add("2450 310 290 5 0 120 0\n")
	f.Add("1 99999999999 ")
	f.Add(" ")
	f.Fuzz(func(t *testing.T, line string) {
		if got, err := residentPages([]byte(line)); err != nil && got != 0 || got >= 1<<38 {
			t.Errorf("%d, %v", got, err)
		}
	})
}

// A child that uses the CPU, and is not waited for yet.
func TestUsageOfZombie(t *testing.T) {
	child := exec.Command("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, child.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	got, err := usageOf(child.Process.Pid, make([]byte, 1024))
	_ = child.Wait() // it ran, which is all
	ended := child.ProcessState.UserTime() + child.ProcessState.SystemTime()
	if err != nil || got.RSS != 0 || got.CPU < ended*9/10 || got.CPU > ended*11/10+20*time.Millisecond {
		t.Errorf("%+v, %v; it used %v", got, err, ended)
	}
}

func TestUsageOf(t *testing.T) {
	buf := make([]byte, 1024)
	got, err := usageOf(os.Getpid(), buf)
	if err != nil || got.RSS < 1<<20 || got.RSS > 1<<36 {
		t.Errorf("%+v, %v", got, err)
	}
	for deadline := time.Now().Add(30 * time.Second); got.CPU == 0 && time.Now().Before(deadline); {
		_ = fmt.Sprint(strings.Repeat("x", 1<<16)) // some work
		got, _ = usageOf(os.Getpid(), buf)
	}
	if got.CPU == 0 {
		t.Error("no CPU time")
	}
	if got, err := usageOf(1<<22+1, buf); err == nil {
		t.Errorf("of no process: %+v", got)
	}
}
