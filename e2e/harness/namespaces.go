package harness

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AloneChild runs a program in a network namespace of its own, where every port
// is free.
var AloneChild = Child("alone", func(args []string) int {
	runtime.LockOSThread() // the namespace is this thread's until exec
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return Failed(err)
	}
	if err := LoopbackUp(); err != nil {
		return Failed(err)
	}
	return Become(args)
})

// JoinChild runs a program in the network namespace of another process.
var JoinChild = Child("join", func(args []string) int {
	runtime.LockOSThread()
	fd, err := unix.Open("/proc/"+args[0]+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Failed(err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return Failed(err)
	}
	return Become(args[1:])
})

// TmpfsChild runs a program that finds a file system of its own in a directory,
// with such options. Others see it below /proc/PID/root.
var TmpfsChild = Child("tmpfs", func(args []string) int {
	if err := unix.Mount("none", args[0], "tmpfs", 0, args[1]); err != nil {
		return Failed(err)
	}
	return Become(args[2:])
})

// UserChild runs a program as the user with a number.
var UserChild = Child("user", func(args []string) int {
	id, err := strconv.Atoi(args[0])
	if err != nil {
		return Failed(err)
	}
	runtime.LockOSThread() // until exec they are this thread's
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return Failed(errno)
	}
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		if _, _, errno := unix.RawSyscall(call, uintptr(id), uintptr(id), uintptr(id)); errno != 0 {
			return Failed(errno)
		}
	}
	return Become(args[1:])
})

// Become becomes the program, with the role of E2E_NEXT.
func Become(args []string) int {
	path, err := exec.LookPath(args[0])
	if err == nil {
		err = os.Setenv("TEST_CHILD", os.Getenv("E2E_NEXT"))
	}
	if err == nil {
		err = syscall.Exec(path, args, os.Environ())
	}
	return Failed(err)
}

// LoopbackUp switches the loopback device of a new network namespace on.
func LoopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var request struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], "lo")
	request.flags = unix.IFF_UP
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
