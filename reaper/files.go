package reaper

import (
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// SealFiles marks every descriptor from 3 on close-on-exec: what this program
// inherited by accident must not reach its children.
func SealFiles() {
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Before Linux 5.11 there is no such flag.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}
