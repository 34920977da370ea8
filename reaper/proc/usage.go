package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// maxDigits bounds the length of a PID in a path.
const maxDigits = 20

// maxStatm is enough for /proc/PID/statm: seven numbers of up to 20 digits.
const maxStatm = 160

// RSS returns the resident memory of a process in bytes, shared pages included.
// It is 0 for a zombie. A call costs a few microseconds. Newer kernels sum the
// pages up lazily, so the answer may be off by some hundred KiB per CPU. The
// error for a process that has gone is fs.ErrNotExist.
//
// A process whose main thread has ended while others go on looks like a zombie. Its
// memory is that of any other thread.
func RSS(pid int) (uint64, error) {
	rss, err := statmRSS(pid, 0)
	if err != nil || rss > 0 {
		return rss, err
	}
	for _, tid := range threads(pid) {
		if rss, err := statmRSS(pid, tid); err == nil && rss > 0 {
			return rss, nil
		}
	}
	return 0, nil
}

// threads returns the threads of a process, but for its main thread.
func threads(pid int) (tids []int) {
	names, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		return nil
	}
	for _, n := range names {
		if tid, err := strconv.Atoi(n.Name()); err == nil && tid != pid {
			tids = append(tids, tid)
		}
	}
	return tids
}

// statmRSS is RSS as the process shows it, or as one of its threads does.
func statmRSS(pid, tid int) (uint64, error) {
	var buf [maxStatm]byte
	n, err := readStatm(pid, tid, buf[:])
	if err == unix.ESRCH {
		err = unix.ENOENT // the process ended between open and read
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read memory of process %d: %w", pid, err)
	}
	pages, ok := residentPages(buf[:n])
	if !ok {
		return 0, fmt.Errorf("cannot read memory of process %d: statm is %q", pid, bytes.Clone(buf[:n]))
	}
	return pages * uint64(os.Getpagesize()), nil
}

// CPUs returns how many CPUs this program may run on, or 0 if that is not known.
func CPUs() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &set); err != nil {
		return 0
	}
	return set.Count()
}

// readStatm uses plain system calls: an os.File would cost more than the read,
// and would be all of the garbage.
func readStatm(pid, tid int, buf []byte) (n int, err error) {
	var path [len("/proc/") + maxDigits + len("/task/") + maxDigits + len("/statm")]byte
	name := strconv.AppendInt(append(path[:0], "/proc/"...), int64(pid), 10)
	if tid != 0 {
		name = strconv.AppendInt(append(name, "/task/"...), int64(tid), 10)
	}
	fd, err := unix.Open(string(append(name, "/statm"...)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	for {
		n, err = unix.Read(fd, buf)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// Peak returns the most resident memory that a process ever had, in bytes. A zombie
// does not have it any more.
func Peak(pid int) (uint64, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	return peakIn(status)
}

var errNoPeak = errors.New("no VmHWM")

// peakIn reads a line such as "VmHWM:     1804 kB".
func peakIn(status []byte) (uint64, error) {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			if fields := bytes.Fields(rest); len(fields) == 2 {
				kib, err := strconv.ParseUint(string(fields[0]), 10, 50)
				return kib << 10, err
			}
		}
	}
	return 0, errNoPeak
}

// residentPages returns the second number of a statm line. It accepts at most
// 38 bits (1 EiB with pages of 4 KiB), so that the sum over all processes cannot
// overflow.
func residentPages(statm []byte) (pages uint64, ok bool) {
	_, rest, _ := bytes.Cut(statm, []byte{' '})
	number, _, found := bytes.Cut(rest, []byte{' '})
	pages, err := strconv.ParseUint(string(number), 10, 38)
	if !found || err != nil {
		return 0, false
	}
	return pages, true
}

// CPU returns the CPU time of all threads of a process so far. A zombie still
// has it. The process's CPU clock counts nanoseconds and is cheaper for the
// kernel than /proc/PID/stat, which counts hundredths of a second.
func CPU(pid int) (time.Duration, error) {
	var used unix.Timespec
	if err := unix.ClockGettime(cpuClock(pid), &used); err != nil {
		return 0, fmt.Errorf("cannot read CPU time of process %d: %w", pid, err)
	}
	return time.Duration(used.Nano()), nil
}

// cpuClock returns the number of a process's CPU clock, as
// clock_getcpuclockid(3) computes it.
func cpuClock(pid int) int32 { return int32(^pid<<3 | 2) }
