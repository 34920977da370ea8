package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const sysvKey = "0x7000001" // of a namespace of our own

// buildSysV compiles testdata/sysv.c.
var buildSysV = sync.OnceValues(func() (string, error) {
	p, err := build()
	path := filepath.Join(filepath.Dir(p.peer), "sysv")
	if err != nil {
		return path, err
	}
	if out, err := exec.Command("gcc", "-O2", "-static", "-o", path, "testdata/sysv.c").CombinedOutput(); err != nil {
		return path, fmt.Errorf("gcc: %w\n%s", err, out)
	}
	return path, nil
})

// Messages of 100 bytes from a System V queue through two workers, with the
// kernel's default of 16 kB a queue, and with 1 MB.
func BenchmarkSysV(b *testing.B) {
	p := built(b)
	peer, err := buildSysV()
	if err != nil {
		b.Fatal(err)
	}
	const count = 1_000_000
	for _, queue := range []int{16384, 1 << 20} {
		b.Run(fmt.Sprintf("msgmnb=%d", queue), func(b *testing.B) {
			var rate, cpu float64
			for b.Loop() {
				inOwnIPC(b, queue, func() { rate, cpu = sysvRun(b, p.poolinit, peer, count) })
			}
			noNsPerOp(b)
			b.ReportMetric(cpu, "pool-us/message")
			b.ReportMetric(rate, "messages/s")
			if rate < 200_000 {
				b.Errorf("%.0f messages/s, and the least is 200000", rate)
			}
		})
	}
}

// inOwnIPC calls f on a thread with an IPC namespace, which what it starts
// inherits.
func inOwnIPC(b *testing.B, queueBytes int, f func()) {
	b.Helper()
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // for ever: the thread ends with this
		if err := unix.Unshare(unix.CLONE_NEWIPC); err != nil {
			b.Errorf("cannot make an IPC namespace: %v", err)
			return
		}
		if err := os.WriteFile("/proc/sys/kernel/msgmnb", []byte(strconv.Itoa(queueBytes)), 0); err != nil {
			b.Error(err)
			return
		}
		f()
	})
	done.Wait()
}

func sysvRun(b *testing.B, poolinit, peer string, count int) (perSecond, microseconds float64) {
	var log bytes.Buffer
	server := exec.Command(poolinit, "-n", "2", "--listen", "sysv://"+sysvKey, "--", peer, "work")
	server.Stderr = &log
	if err := server.Start(); err != nil {
		b.Error(err)
		return 0, 0
	}
	defer server.Process.Kill()
	pid := server.Process.Pid
	for deadline := time.Now().Add(patience); len(children(pid)) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.Error("no workers")
			return 0, 0
		}
	}
	began := time.Now()
	send := exec.Command(peer, "send", sysvKey, strconv.Itoa(count), "100")
	if out, err := send.CombinedOutput(); err != nil {
		b.Errorf("%v: %s", err, out)
	}
	took := time.Since(began)
	_ = server.Process.Signal(syscall.SIGTERM)
	_ = server.Wait() // the last line says how it was
	if want := fmt.Sprintf("stopped: handled %d, spooled 0, lost 0", count); !strings.Contains(log.String(), want) {
		b.Errorf("not %q: %s", want, log.String())
	}
	used := server.ProcessState.UserTime() + server.ProcessState.SystemTime() // and its workers', which it has waited for
	return float64(count) / took.Seconds(), float64(used.Microseconds()) / float64(count)
}
