package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func readStamps(r io.Reader, to chan<- stamp) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var s stamp
		var at int64
		if n, _ := fmt.Sscan(lines.Text(), &s.worker, &s.pid, &at); n == 3 {
			s.at = time.Duration(at)
			to <- s
		}
	}
}

// children lists the children of all threads of a process.
func children(pid int) (list []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		text, _ := os.ReadFile(file) // gone meanwhile: none
		for word := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				list = append(list, child)
			}
		}
	}
	return list
}

func statusLine(b *testing.B, pid int, key string) string {
	b.Helper()
	return lineOf(b, fmt.Sprintf("/proc/%d/status", pid), key)
}

// lineOf returns what follows "key:" in a file of /proc.
func lineOf(b *testing.B, file, key string) string {
	b.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	b.Fatalf("%s has no %s", file, key)
	return ""
}

// memory returns a line of smaps_rollup, in kB.
func memory(b *testing.B, pid int, key string) int {
	b.Helper()
	words := strings.Fields(lineOf(b, fmt.Sprintf("/proc/%d/smaps_rollup", pid), key))
	kb, err := strconv.Atoi(words[0])
	if err != nil {
		b.Fatal(err)
	}
	return kb
}

// wakeUps counts how often the threads of a process have waited for something,
// or were put off the CPU: each begins with a wake-up.
func wakeUps(b *testing.B, pid int) (sum int) {
	b.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, file := range files {
		for _, key := range []string{"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"} {
			n, err := strconv.Atoi(lineOf(b, file, key))
			if err != nil {
				b.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

// quiet waits until the machine has had nothing else to do for a second (a
// storm of orphans keeps the kernel busy long after it), or says that it has.
func quiet(b *testing.B) {
	b.Helper()
	deadline := time.Now().Add(patience)
	idle, total := cpuTimes(b)
	for time.Now().Before(deadline) {
		time.Sleep(time.Second)
		idleNow, totalNow := cpuTimes(b)
		if float64(idleNow-idle) > 0.9*float64(totalNow-total) {
			return
		}
		idle, total = idleNow, totalNow
	}
	b.Log("the machine is busy with something else: the figures are worth little")
}

// cpuTimes returns the time that all CPUs were idle, and all time.
func cpuTimes(b *testing.B) (idle, total int) {
	b.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, word := range strings.Fields(line)[1:] {
		n, err := strconv.Atoi(word)
		if err != nil {
			b.Fatal(err)
		}
		if total += n; i == 3 {
			idle = n
		}
	}
	return idle, total
}
