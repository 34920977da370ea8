package notify

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Send tells a manager the state of this process, for the group that it is in:
// lines of VARIABLE=value, to the socket that NOTIFY_SOCKET names (a path, or @ and
// an abstract name). It returns when that has been read, since a manager has to find
// the sender alive to know whose word it is; this is sd_notify_barrier(3). The
// error tells if that takes longer than patience.
func Send(socket, state string, patience time.Duration) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return err
	}
	read, written, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	to := &unix.SockaddrUnix{Name: socket}
	if err = unix.Sendto(fd, []byte(state), unix.MSG_NOSIGNAL, to); err == nil {
		err = unix.Sendmsg(fd, []byte(barrier), unix.UnixRights(int(written.Fd())), to, unix.MSG_NOSIGNAL)
	}
	written.Close() // the other one is with the manager
	switch {
	case errors.Is(err, unix.EAGAIN):
		return errUnread
	case err != nil:
		return fmt.Errorf("%s: %w", socket, err)
	}
	_ = read.SetReadDeadline(time.Now().Add(patience)) // a pipe has them
	if _, err := read.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return errUnread
	}
	return nil
}

// barrier comes with a descriptor, which is closed when the message is read.
const barrier = "BARRIER=1"

var errUnread = errors.New("nobody reads what is sent")
