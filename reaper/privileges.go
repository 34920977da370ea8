package reaper

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// HideMemory makes the kernel refuse other processes of this program's user to read
// its memory, to trace it or to take its descriptors (PR_SET_DUMPABLE). It does not
// stop processes with CAP_SYS_PTRACE. Of this program's own files in /proc some
// belong to root from then on, so that another user cannot read environ and io.
//
// Starts keep it hidden: a child that changes its user before exec, while it shares
// this program's memory, sets it back to fs.suid_dumpable.
func HideMemory() error { return setDumpable(0) }

func setDumpable(value uintptr) error {
	return unix.Prctl(unix.PR_SET_DUMPABLE, value, 0, 0, 0)
}

// isHidden reports whether HideMemory was called.
func isHidden() bool {
	value, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	return err == nil && value == 0
}

// confineThread confines this thread, which must be locked, and what it forks.
func confineThread() error {
	var failed []error
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		failed = append(failed, fmt.Errorf("no_new_privs: %w", err))
	}
	if err := dropBounding(); err != nil {
		failed = append(failed, fmt.Errorf("bounding set of capabilities: %w", err))
	}
	return errors.Join(failed...)
}

// dropBounding empties the bounding set of this thread.
func dropBounding() error {
	for c := uintptr(0); ; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		switch {
		case errors.Is(err, syscall.EINVAL): // there are no more
			return nil
		case err != nil:
			return err
		case has == 0:
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return err
		}
	}
}
