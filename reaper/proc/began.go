package proc

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of times in /proc/PID/stat, the same on every architecture.
const tick = 10 * time.Millisecond

// Began returns when a process began, rounded up to the next tick of the kernel's
// clock. The wall clock does not change it.
func Began(pid int) (time.Time, error) {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return time.Time{}, err
	}
	ticks, err := beganTicks(line)
	if err != nil {
		return time.Time{}, err
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, err
	}
	age := time.Duration(boot.Nano()) - time.Duration(ticks+1)*tick
	return time.Now().Add(-age), nil
}

// beganTicks returns the 22nd field of a line of /proc/PID/stat.
func beganTicks(line []byte) (uint64, error) {
	const began = 19 // after the bracket
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	if len(fields) <= began {
		return 0, errStat
	}
	return strconv.ParseUint(string(fields[began]), 10, 48)
}
