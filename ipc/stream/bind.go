package stream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// bindTCP makes the socket. Go sets SO_REUSEADDR.
func bindTCP(c *config) (net.Listener, error) {
	// Keep-alive costs three system calls a connection, and what it finds, idle=
	// finds too.
	listen := net.ListenConfig{KeepAlive: -1}
	listen.SetMultipathTCP(false) // a worker that inherits the socket expects plain TCP
	ln, err := listen.Listen(context.Background(), "tcp", c.Addr())
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", c.Name, err)
	}
	return ln, nil
}

// bindUnix makes the socket and its file, which stays when the socket is closed.
// A socket file that no process listens on is replaced.
func bindUnix(c *config) (*net.UnixListener, *socketFile, error) {
	path := c.Addr()
	if err := clearStale(path); err != nil {
		return nil, nil, fmt.Errorf("cannot listen on %s: %w", c.Name, advise(path, err))
	}
	// The umask belongs to the process, but nothing else makes files while sources
	// are opened. A chmod afterwards would leave a moment in which everybody may
	// connect.
	mask := syscall.Umask(0o777 &^ int(c.mode))
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(mask)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot listen on %s: %w", c.Name, advise(path, err))
	}
	ln.SetUnlinkOnClose(false) // it lives on in a descriptor that was duplicated
	return ln, newSocketFile(path), nil
}

// A socketFile is the file of a unix socket that was bound.
type socketFile struct {
	path string
	info fs.FileInfo // nil: it was gone at once
}

func newSocketFile(path string) *socketFile {
	info, _ := os.Lstat(path)
	return &socketFile{path, info}
}

// remove removes the file, unless another one has its path by now: that is
// another process's. It is for before the socket is closed: as long as that is
// open it holds its inode, whose number could go to another file otherwise.
func (f *socketFile) remove() {
	if now, err := os.Lstat(f.path); err == nil && os.SameFile(f.info, now) {
		os.Remove(f.path)
	}
}

// clearStale removes a socket file that was left behind.
func clearStale(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket: choose another path, or remove it", path)
	}
	nc, err := net.Dial("unix", path)
	switch {
	case err == nil:
		nc.Close()
		return fmt.Errorf("another process listens on %s", path)
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("another process listens on %s, and is too busy to answer", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s is there, and uid %d may not ask whether another process listens on it: remove it, or choose another path",
			path, os.Geteuid())
	}
	return err
}

// advise adds to an error of making or removing a file what helps against it.
func advise(path string, err error) error {
	dir := filepath.Dir(path)
	switch _, gone := os.Stat(dir); {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: let uid %d write to %s, or choose another directory", err, os.Geteuid(), dir)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: mount a volume on %s, or choose another directory", err, dir)
	case errors.Is(gone, fs.ErrNotExist):
		return fmt.Errorf("%w: make the directory %s, or choose another one", err, dir)
	}
	return err
}
