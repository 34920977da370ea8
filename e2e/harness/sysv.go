package harness

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A SysVQueue is a System V queue of a test.
type SysVQueue uint32

// NewSysVQueue returns a key that no queue has. Its queue is removed when the test
// ends.
func NewSysVQueue(t testing.TB) SysVQueue {
	t.Helper()
	q := SysVQueue(0x60000000 | rand.Uint32()>>4)
	t.Cleanup(q.Remove)
	return q
}

// URL is what a pool listens to.
func (q SysVQueue) URL() string { return fmt.Sprintf("sysv://%#x?mode=0600", uint32(q)) }

// Remove removes the queue, if it is there.
func (q SysVQueue) Remove() {
	if f := q.row(); f != nil {
		id, _ := strconv.Atoi(f[1])
		_, _, _ = unix.Syscall(unix.SYS_MSGCTL, uintptr(id), unix.IPC_RMID, 0)
	}
}

// row is the queue's in /proc/sysvipc/msg, or nil.
func (q SysVQueue) row() []string {
	text, _ := os.ReadFile("/proc/sysvipc/msg")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == strconv.Itoa(int(int32(q))) {
			return f
		}
	}
	return nil
}

// Depth returns how many messages are in the queue; -1: there is no queue.
func (q SysVQueue) Depth() int {
	f := q.row()
	if f == nil {
		return -1
	}
	n, _ := strconv.Atoi(f[4])
	return n
}

// Send puts a message of type 1 into the queue. It waits while that is full.
func (q SysVQueue) Send(t testing.TB, body string) {
	t.Helper()
	if err := q.send(body, 0); err != nil {
		t.Fatal(err)
	}
}

// TrySend is Send, with an error if there is no queue or no room in it.
func (q SysVQueue) TrySend(body string) error { return q.send(body, unix.IPC_NOWAIT) }

func (q SysVQueue) send(body string, flags uintptr) error {
	id, _, errno := unix.Syscall(unix.SYS_MSGGET, uintptr(q), 0o200, 0)
	if errno != 0 {
		return fmt.Errorf("msgget %#x: %w", uint32(q), errno)
	}
	message := append(binary.NativeEndian.AppendUint64(nil, 1), body...)
	errno = unix.EINTR
	for errno == unix.EINTR {
		_, _, errno = unix.Syscall6(unix.SYS_MSGSND, id, uintptr(unsafe.Pointer(&message[0])), uintptr(len(body)), flags, 0, 0)
	}
	if errno != 0 {
		return fmt.Errorf("msgsnd %#x: %w", uint32(q), errno)
	}
	return nil
}
