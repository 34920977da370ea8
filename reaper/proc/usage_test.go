package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// noProcess are numbers that no process has: the highest possible PID is 1<<22 - 1.
var noProcess = []int{1 << 22, -1}

func TestRSS(t *testing.T) {
	before, err := RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const more = 64 << 20
	held, err := unix.Mmap(-1, 0, more, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(held)
	after, err := RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if before < 1<<20 || before > 1<<36 || after < before+more/2 {
		t.Errorf("%d bytes, with %d more %d", before, more, after)
	}
}

func TestUsageOfNoProcess(t *testing.T) {
	for _, pid := range noProcess {
		if n, err := RSS(pid); n != 0 || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("process %d: RSS %d, %v", pid, n, err)
		}
	}
	if n, err := CPU(1<<22 + 1); n != 0 || err == nil {
		t.Errorf("CPU time %v, %v", n, err)
	}
}

func TestCPU(t *testing.T) {
	got, err := CPU(os.Getpid())
	for deadline := time.Now().Add(30 * time.Second); err == nil && got == 0 && time.Now().Before(deadline); {
		_ = fmt.Sprint(strings.Repeat("x", 1<<16)) // some work
		got, err = CPU(os.Getpid())
	}
	if got == 0 || err != nil {
		t.Errorf("CPU time %v, %v", got, err)
	}
}

// The child uses the CPU, has ended, and is not waited for yet.
func TestUsageOfZombie(t *testing.T) {
	child := exec.Command("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := child.Process.Pid
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	rss, rssErr := RSS(pid)
	cpu, cpuErr := CPU(pid)
	stat, statErr := StatOf(pid)
	_ = child.Wait() // that it ran is enough
	if err := errors.Join(rssErr, cpuErr, statErr); err != nil {
		t.Fatal(err)
	}
	used := child.ProcessState.UserTime() + child.ProcessState.SystemTime()
	if rss != 0 || cpu < used*9/10 || cpu > used*11/10+20*time.Millisecond {
		t.Errorf("RSS %d, CPU time %v; it used %v", rss, cpu, used)
	}
	if stat.State != 'Z' || stat.Parent != os.Getpid() || stat.Alive() || !stat.Exiting() {
		t.Errorf("%+v, want a zombie", stat)
	}
}

func TestResidentPages(t *testing.T) {
	for _, tt := range []struct {
		statm string
		pages uint64
		ok    bool
	}{
		{"2450 310 290 5 0 120 0\n", 310, true},
		{"2273 885 842 7 0 120 0\n", 885, true},
		{"0 0 0 0 0 0 0\n", 0, true}, // a zombie
		{"1 274877906943 ", 1<<38 - 1, true},
		{"1 274877906944 3\n", 0, false}, // the sum of many would overflow
		{"1 -3 3\n", 0, false},
		{"1 x 3\n", 0, false},
		{"1  3\n", 0, false},
		{"12 34", 0, false}, // cut off: the number may go on
		{"12\n", 0, false},
		{"", 0, false},
	} {
		if pages, ok := residentPages([]byte(tt.statm)); ok != tt.ok || pages != tt.pages {
			t.Errorf("%q: %d, %v", tt.statm, pages, ok)
		}
	}
}

func FuzzResidentPages(f *testing.F) {
	f.Add("2450 310 290 5 0 120 0\n")
	f.Add("1 99999999999 ")
	f.Add(" ")
	f.Fuzz(func(t *testing.T, statm string) {
		if pages, ok := residentPages([]byte(statm)); !ok && pages != 0 || pages >= 1<<38 {
			t.Errorf("%d, %v", pages, ok)
		}
	})
}

func BenchmarkRSS(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, _ = RSS(os.Getpid())
	}
}

func TestPeakIn(t *testing.T) {
	for status, want := range map[string]uint64{
		"Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t    1804 kB\nVmRSS:\t 7 kB\n": 1804 << 10,
		"VmHWM:\t0 kB\n":                 0,
		"Name:\tx\nState:\tZ (zombie)\n": 0,
		"VmHWM:\tx kB\n":                 0,
		"VmHWM:\n":                       0,
		"":                               0,
	} {
		got, err := peakIn([]byte(status))
		if has := strings.Contains(status, "1804") || strings.Contains(status, "0 kB"); got != want || (err == nil) != has {
			t.Errorf("%q: %d, %v", status, got, err)
		}
	}
}

func TestPeak(t *testing.T) {
	peak, err := Peak(os.Getpid())
	rss, _ := RSS(os.Getpid())
	if err != nil || peak < rss/2 {
		t.Errorf("this process: %d, %v, RSS %d", peak, err, rss)
	}
	for _, pid := range noProcess {
		if peak, err := Peak(pid); peak != 0 || err == nil {
			t.Errorf("process %d: %d, %v", pid, peak, err)
		}
	}
}
