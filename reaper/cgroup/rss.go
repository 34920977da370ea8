package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// statmSize holds /proc/PID/statm: seven numbers.
const statmSize = 160

// RSS is the resident memory of a process, in bytes, shared pages included; 0 for a zombie. It is cheap
// enough for 1,000 processes a second. Newer kernels sum it up lazily: it may be off by some hundred KiB a
// CPU. The error of a process that is gone is fs.ErrNotExist.
func RSS(pid int) (uint64, error) {
	var buf [statmSize]byte
	n, err := readStatm(pid, buf[:])
	if err == unix.ESRCH {
		err = unix.ENOENT // it went between open and read
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

// readStatm spares itself the os.File, which would be most of the work and all of the garbage.
func readStatm(pid int, buf []byte) (int, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/statm", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return pread(fd, buf)
}

// residentPages is the second number.
func residentPages(statm []byte) (pages uint64, ok bool) {
	_, rest, _ := bytes.Cut(statm, []byte{' '})
	number, _, ok := bytes.Cut(rest, []byte{' '})
	pages, err := strconv.ParseUint(string(number), 10, 64)
	return pages, ok && err == nil
}
