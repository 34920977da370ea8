package ipc

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// SendSysV puts a message into the System V queue with the key, as type 1. It
// waits while the queue is full. A queue that is not there is an error: who
// takes the messages makes it.
func SendSysV(key uint32, body []byte) error {
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
