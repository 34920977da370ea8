package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/proc"
)

// The commands of a request.
const (
	cmdStatus = "status"
	cmdHealth = "health"
	cmdReload = "reload"
	cmdStop   = "stop"
)

type request struct {
	Command string `json:"command"`
	Wait    bool   `json:"wait,omitempty"`
}

// An Answer is a line of every answer but that to status.
type Answer struct {
	Error      string  `json:"error,omitempty"`
	Accepted   bool    `json:"accepted,omitempty"`
	Kills      bool    `json:"kills,omitempty"`
	Live       bool    `json:"live,omitempty"`
	Ready      bool    `json:"ready,omitempty"`
	Reason     string  `json:"reason,omitempty"`
	Generation int     `json:"generation,omitempty"`
	Replaced   int     `json:"replaced,omitempty"`
	Workers    int     `json:"workers,omitempty"`
	Outcome    string  `json:"outcome,omitempty"`
	Seconds    float64 `json:"seconds,omitempty"`
}

// prefix returns the beginning of all socket names of this PID namespace.
func prefix() (string, error) {
	id, err := proc.Namespace()
	if err != nil {
		return "", fmt.Errorf("cannot tell the PID namespace: %w", err)
	}
	return "@poolinit/" + id + "/", nil
}

// peer returns the process at the other end, with the PID that it has in this PID
// namespace, or 0 if it is not in it. For a client that is the process that listens,
// for a server the one that connected, each at that time.
func peer(conn syscall.Conn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil {
		return nil, e
	}
	return cred, err
}

// errGone means that a peer has ended, so that nothing can be known about it.
var errGone = errors.New("the process has ended")

// trusted returns why a peer may not use the socket, or nil. A PID in this namespace is
// not enough: processes of namespaces below have one too. Only /proc distinguishes
// them, so a process that /proc hides from the pool's user is refused, even root's.
func trusted(cred *unix.Ucred) error {
	if uid := os.Geteuid(); cred.Uid != 0 && cred.Uid != uint32(uid) {
		return fmt.Errorf("uid %d is not the pool's, which is %d, nor root", cred.Uid, uid)
	}
	if cred.Pid == 0 {
		return fmt.Errorf("the process is not in the pool's PID namespace")
	}
	only, err := proc.OnlyHere(int(cred.Pid))
	switch {
	case errors.Is(err, fs.ErrNotExist) && isGone(int(cred.Pid)):
		return errGone
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot tell the PID namespace of process %d: /proc hides it from uid %d (hidepid); ask as that user", cred.Pid, os.Geteuid())
	case err != nil:
		return fmt.Errorf("cannot tell the PID namespace of process %d: %w", cred.Pid, err)
	}
	if !only {
		return fmt.Errorf("process %d is in another PID namespace", cred.Pid)
	}
	return nil
}

// isGone asks the kernel, which answers for every process, unlike /proc.
func isGone(pid int) bool {
	_, err := unix.Getpgid(pid)
	return err == unix.ESRCH
}
