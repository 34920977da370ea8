package sysv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// typeSize is what comes before a message's text in struct msgbuf: a long, its
// type.
const typeSize = 8

// defaultMsgmax is what the kernel starts with.
const defaultMsgmax = 8192

// msgmax returns how long a message may be at present, in bytes.
func msgmax() int {
	text, _ := os.ReadFile("/proc/sys/kernel/msgmax") // no /proc: the default
	n, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil || n < 1 {
		return defaultMsgmax
	}
	return n
}

// A queueState is struct msqid64_ds, which is the same on amd64 and arm64.
type queueState struct {
	key      int32
	uid, gid uint32 // of the owner, who may be another user than the one that made it
	cuid     uint32 // of the user that made it
	cgid     uint32
	mode     uint32
	_        [12]uint64
}

// state asks for the owner and the permissions of a queue, for which the
// permission to read is enough.
func state(id int) (s queueState, err error) {
	if _, _, errno := unix.Syscall(unix.SYS_MSGCTL, uintptr(id), unix.IPC_STAT, uintptr(unsafe.Pointer(&s))); errno != 0 {
		return s, errno
	}
	return s, nil
}

// setMode gives a queue other permissions. s is what state returned.
func setMode(id int, s queueState, mode uint32) error {
	s.mode = mode
	if _, _, errno := unix.Syscall(unix.SYS_MSGCTL, uintptr(id), unix.IPC_SET, uintptr(unsafe.Pointer(&s))); errno != 0 {
		return errno
	}
	return nil
}

func msgget(key uint32, flags int) (id int, err error) {
	r, _, errno := unix.Syscall(unix.SYS_MSGGET, uintptr(key), uintptr(flags), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// msgrcv takes the oldest message of any type. It returns the size of its text,
// which follows the type in buf. The error is EIDRM if the queue was removed,
// while it waited or before: the kernel says EINVAL then.
func msgrcv(id int, buf []byte, flags int) (size int, err error) {
	r, _, errno := unix.Syscall6(unix.SYS_MSGRCV, uintptr(id), uintptr(unsafe.Pointer(&buf[0])),
		uintptr(len(buf)-typeSize), 0, uintptr(flags), 0)
	switch errno {
	case 0:
		return int(r), nil
	case unix.EINVAL:
		return 0, unix.EIDRM
	}
	return 0, errno
}

// msgsnd sends what buf holds, the type and the text.
func msgsnd(id int, buf []byte, flags int) error {
	_, _, errno := unix.Syscall6(unix.SYS_MSGSND, uintptr(id), uintptr(unsafe.Pointer(&buf[0])),
		uintptr(len(buf)-typeSize), uintptr(flags), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Send puts a message into the System V queue with the key, as type 1. It
// waits while the queue is full. A queue that is not there is an error: the
// process that takes the messages makes it.
func Send(key uint32, body []byte) error {
	id, err := msgget(key, 0o200)
	switch err {
	case nil:
	case unix.ENOENT:
		return fmt.Errorf("cannot send to sysv://%#x: there is no such queue: %w", key, err)
	default:
		return fmt.Errorf("cannot send to sysv://%#x: %w", key, err)
	}
	buf := binary.NativeEndian.AppendUint64(make([]byte, 0, typeSize+len(body)), 1)
	buf = append(buf, body...)
	err = unix.EINTR
	for err == unix.EINTR { // no signal makes it start over by itself
		err = msgsnd(id, buf, 0)
	}
	switch {
	case err == nil:
		return nil
	case err == unix.EINVAL && len(body) > msgmax():
		return fmt.Errorf("cannot send to sysv://%#x: the message has %d bytes, and the kernel takes %d (kernel.msgmax)", key, len(body), msgmax())
	}
	return fmt.Errorf("cannot send to sysv://%#x: %w", key, err)
}
