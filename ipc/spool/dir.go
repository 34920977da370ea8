package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A dir is a directory of poolinit's own, held open: what other users do to its
// path has no effect on it. No name in it is followed if it is a link.
type dir struct {
	path string // for people
	file *os.File
	lock *os.File
}

// lockName is the file that the poolinit which uses the directory has locked.
const lockName = ".lock"

// openDir opens the directory of a spool and makes it if it is absent. If users
// other than poolinit's may write to it, which they may to a volume that
// Kubernetes has made, it is a directory of poolinit's own below it, and shared is
// the directory itself; otherwise that is nil. The caller closes both.
func openDir(path string) (own, shared *dir, err error) {
	if err = os.MkdirAll(path, 0o700); err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, bare(err)
	}
	d := &dir{path: path, file: f}
	st, err := d.fstat(f)
	switch {
	case err != nil:
		d.close()
		return nil, nil, err
	case isOurs(&st) && !othersMayWrite(&st):
		return d, nil, nil
	}
	own, err = d.openOwn()
	if err != nil {
		d.close()
		return nil, nil, err
	}
	return own, d, nil
}

// openOwn opens the directory below d that only poolinit's user may use.
func (d *dir) openOwn() (*dir, error) {
	name := fmt.Sprintf("poolinit-%d", os.Geteuid())
	path := filepath.Join(d.path, name)
	err := unix.Mkdirat(d.fd(), name, 0o700)
	if err != nil && err != unix.EEXIST {
		return nil, fmt.Errorf("cannot make %s in it: %w", name, err)
	}
	f, err := d.open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("%s is not a directory of poolinit's own (%w): remove it", path, err)
	}
	own := &dir{path: path, file: f}
	st, err := own.fstat(f)
	switch {
	case err != nil:
	case !isOurs(&st):
		err = fmt.Errorf("%s belongs to uid %d, and poolinit runs as uid %d: remove it, or choose another directory", path, st.Uid, os.Geteuid())
	case st.Mode&0o077 != 0: // as Kubernetes does with fsGroup
		err = f.Chmod(0o700)
	}
	if err != nil {
		own.close()
		return nil, err
	}
	return own, nil
}

func isOurs(st *unix.Stat_t) bool { return int(st.Uid) == os.Geteuid() }

func othersMayWrite(st *unix.Stat_t) bool { return st.Mode&0o022 != 0 }

// isTrusted reports whether a file is one that poolinit's user has made, or root,
// who may bring back what was given up.
func isTrusted(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFREG && (isOurs(st) || st.Uid == 0) && st.Nlink == 1
}

func (d *dir) fd() int { return int(d.file.Fd()) }

func (d *dir) close() {
	if d == nil {
		return
	}
	d.file.Close()
	if d.lock != nil {
		d.lock.Close()
	}
}

// open opens a file of the directory. It follows no link, and waits for no
// other end of a pipe.
func (d *dir) open(name string, flags int, mode uint32) (*os.File, error) {
	for {
		fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, mode)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), name), nil
		case unix.EINTR:
		default:
			return nil, err
		}
	}
}

func (d *dir) fstat(f *os.File) (st unix.Stat_t, err error) { return st, unix.Fstat(int(f.Fd()), &st) }

// stat says what a name is, and does not follow a link.
func (d *dir) stat(name string) (st unix.Stat_t, err error) {
	return st, unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
}

// takeLock locks the directory for this process.
func (d *dir) takeLock() (err error) {
	d.lock, err = d.open(lockName, unix.O_RDWR|unix.O_CREAT, 0o600)
	if isFull(err) {
		d.lock, err = d.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0) // it was never locked: what is in it can be delivered all the same
	} else if err == nil {
		err = d.checkLock()
	}
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", filepath.Join(d.path, lockName), err)
	}
	err = unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == unix.EWOULDBLOCK:
		return errors.New("another poolinit uses it")
	case err != nil:
		return fmt.Errorf("cannot lock it: %w", err)
	}
	return nil
}

// checkLock refuses a file that another user can have locked.
func (d *dir) checkLock() error {
	st, err := d.fstat(d.lock)
	switch {
	case err != nil:
		return err
	case !isTrusted(&st) || !isOurs(&st):
		return fmt.Errorf("it is not a file of poolinit's own, but of uid %d: remove it", st.Uid)
	case st.Mode&0o077 != 0:
		return d.lock.Chmod(0o600)
	}
	return nil
}

// names returns the names of what is in the directory.
func (d *dir) names() (names []string, err error) {
	err = d.each(func(name string) { names = append(names, name) })
	return names, err
}

// each calls f with the names of what is in the directory, which may be many.
func (d *dir) each(f func(name string)) error {
	list, err := d.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer list.Close()
	for {
		names, err := list.Readdirnames(1000)
		for _, name := range names {
			f(name)
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return bare(err)
		}
	}
}

// create makes a file in the place of any that has the name, and returns when it is
// on the disk.
func (d *dir) create(name string, b []byte) error {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL
	f, err := d.open(name, flags, 0o600)
	if err == unix.EEXIST {
		if err = unix.Unlinkat(d.fd(), name, 0); err == nil {
			f, err = d.open(name, flags, 0o600)
		}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return bare(errors.Join(err, f.Close()))
}

// read opens a file of a message. The caller closes it.
func (d *dir) read(name string) (*os.File, error) {
	f, err := d.open(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	st, err := d.fstat(f)
	if err == nil && !isTrusted(&st) {
		err = fmt.Errorf("it is not a file that uid %d or root has made, but of uid %d, mode %04o, %d links", os.Geteuid(), st.Uid, st.Mode&0o7777, st.Nlink)
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = errors.New("it is not a regular file")
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d *dir) rename(from, to string) error { return unix.Renameat(d.fd(), from, d.fd(), to) }

// take moves a file of another directory into this one.
func (d *dir) take(from *dir, name string) error {
	return unix.Renameat(from.fd(), name, d.fd(), name)
}

// remove removes a file, and returns what it took of the disk.
func (d *dir) remove(name string) (size int64, err error) {
	st, err := d.stat(name)
	if err != nil {
		return 0, err
	}
	return onDisk(st.Size), unix.Unlinkat(d.fd(), name, 0)
}

// sync makes what was renamed before outlive a power cut.
func (d *dir) sync() error { return bare(d.file.Sync()) }

// isFull reports whether an error says that there is no room on a disk.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// bare takes the path off an error: the spool is named elsewhere.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// onDisk is what a file of a size takes of a disk, as a rule.
func onDisk(size int64) int64 { return (size + 4095) &^ 4095 }
