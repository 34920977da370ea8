package ipc

import "golang.org/x/sys/unix"

// A process can attach open files to what it writes to a unix socket (SCM_RIGHTS, unix(7)). Nobody
// here takes them, so read(2) and close(2) close them, in the middle of the call; and to close a socket with
// SO_LINGER or to free a large memfd takes as long as its owner likes.

// soPassRights is SO_PASSRIGHTS of Linux 6.16 (asm-generic/socket.h): without it, who attaches
// something gets EPERM.
const soPassRights = 83

// refuseFiles has the kernel refuse attached files, on a unix socket and those that are accepted
// from it. It reports whether this kernel does; if not, calls on it may take long.
func refuseFiles(fd int) bool {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, soPassRights, 0) == nil
}

// readPatiently is read(2) where it may take long: the runtime is told.
func readPatiently(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
