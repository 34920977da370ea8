package status

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a worker uses.
type Usage struct {
	RSS uint64        // bytes, of its process now
	CPU time.Duration // of all its processes so far
	// Gone: the process ended just now, and its part of CPU is missing.
	Gone bool
}

var errStatm = errors.New("not a line of /proc/PID/statm")

// usageOf reads what a process uses. buf is room for the file. This is done for
// each worker at each scrape: /proc/PID/stat has both, but it costs the kernel
// more to write than all of this, and counts CPU time in hundredths of a second.
func usageOf(pid int, buf []byte) (Usage, error) {
	var used unix.Timespec
	if err := unix.ClockGettime(cpuClock(pid), &used); err != nil {
		return Usage{}, err
	}
	path := append(strconv.AppendInt(append(buf[:0], "/proc/"...), int64(pid), 10), "/statm"...)
	fd, err := unix.Open(string(path), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Usage{}, err
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return Usage{}, err
	}
	pages, err := residentPages(buf[:n])
	return Usage{RSS: pages * uint64(os.Getpagesize()), CPU: time.Duration(used.Nano())}, err
}

// cpuClock is the clock that tells the CPU time of all threads of a process, as
// clock_getcpuclockid(3) makes its number.
func cpuClock(pid int) int32 { return int32(^pid<<3 | 2) }

// residentPages reads the second number of proc_pid_statm(5).
func residentPages(line []byte) (uint64, error) {
	_, line, _ = bytes.Cut(line, []byte(" "))
	pages, _, found := bytes.Cut(line, []byte(" "))
	n, err := strconv.ParseUint(string(pages), 10, 38) // up to 1 EiB: the sum of all cannot overflow
	if !found || err != nil {
		return 0, errStatm
	}
	return n, nil
}
