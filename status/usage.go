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

var errStat = errors.New("not a line of /proc/PID/stat")

// usageOf reads what a process uses. buf is room for the file. There are as few
// system calls as possible: this is done for each worker at each scrape.
func usageOf(pid int, buf []byte) (Usage, error) {
	var path [32]byte
	name := append(strconv.AppendInt(append(path[:0], "/proc/"...), int64(pid), 10), "/stat"...)
	fd, err := unix.Open(string(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Usage{}, err
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return Usage{}, err
	}
	return parseStat(buf[:n])
}

// clockTick is what the kernel counts CPU time in for user space, on every
// architecture that Go runs on.
const clockTick = time.Second / 100

// parseStat reads the fields utime, stime and rss of proc_pid_stat(5). The second
// field is the command's name in brackets, and may hold brackets and blanks itself.
func parseStat(line []byte) (u Usage, err error) {
	const utime, stime, rss = 14, 15, 24
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return u, errStat
	}
	field, last := 2, 0
	for f := range bytes.FieldsSeq(line[end+1:]) {
		field++
		if field != utime && field != stime && field != rss {
			continue
		}
		n, err := strconv.ParseUint(string(f), 10, 38) // 87 years of CPU time, 1 EiB: sums cannot overflow
		if err != nil {
			return Usage{}, errStat
		}
		last = field
		if field == rss {
			u.RSS = n * uint64(os.Getpagesize())
			break
		}
		u.CPU += time.Duration(n) * clockTick
	}
	if last != rss {
		return Usage{}, errStat
	}
	return u, nil
}
