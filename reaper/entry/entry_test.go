package entry

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A test binary is linked in the usual way: nothing is known, and nothing changes.
func TestUnknown(t *testing.T) {
	if s, ok := AtExec(); ok || s != (State{}) {
		t.Errorf("%+v, %v", s, ok)
	}
	var before, after unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &before); err != nil {
		t.Fatal(err)
	}
	RestoreMask()
	Release()
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &after); err != nil || after != before {
		t.Errorf("%x, %v; want %x", after, err, before)
	}
}

// What was recorded is taken once.
func TestTakeRecorded(t *testing.T) {
	want := uint64(1) << (syscall.SIGTERM - 1)
	atExec.early = want
	if got := TakeRecorded(); got != want {
		t.Errorf("%#x", got)
	}
	if got := TakeRecorded(); got != 0 {
		t.Errorf("%#x", got)
	}
}
