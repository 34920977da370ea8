// Package control lets the same user, or root, in the same PID namespace look at
// a running pool and act on it: poolinit status, reload, stop and health.
//
// It goes by an abstract unix socket, which needs no file system and no flag,
// and goes with its process. Its name has the PID namespace in it, since several
// of those may share one network namespace (the containers of a pod), and the
// process's PID, since several pools may run in one of them. Anybody may connect
// to an abstract socket, so the server looks who it is, and the client looks that
// the process that listens is the one whose PID is in the name.
//
// A request is a line of JSON, and so is each line of the answer. What is false,
// 0 or empty is left out:
//
//	{"command":"status"}              a status.Document
//	{"command":"health"}              {"live":true,"ready":true}, or {"live":true,"reason":"..."}
//	{"command":"reload","wait":true}  {"accepted":true}, and {"generation":2,"replaced":1,"workers":4} each time
//	                                  that this changes; at last {"generation":2,"outcome":"done","seconds":1.5}
//	{"command":"stop","wait":true}    {"accepted":true}, then the end of the connection when the process ends
//
// Without wait, reload and stop answer {"accepted":true} alone; but a reload during
// a stop {"outcome":"interrupted","reason":"..."}. A stop during a stop is answered
// {"accepted":true,"kills":true}. What cannot be done is answered {"error":"..."}.
// Who closes its side waits no longer.
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

// Commands.
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

// An Answer is a line of every answer but status's.
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

// prefix is what names of this PID namespace begin with.
func prefix() (string, error) {
	id, err := proc.Namespace()
	if err != nil {
		return "", fmt.Errorf("cannot tell the PID namespace: %w", err)
	}
	return "@poolinit/" + id + "/", nil
}

// peer returns who is at the other end, as this PID namespace numbers it: 0 for
// a process that is not in it. For a client that is who listens, for a server who
// connected, at that time.
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

// errGone means that a peer has ended, so that nothing is to be known about it.
var errGone = errors.New("the process has ended")

// trusted says why a peer may not use the socket, or nil. That it has a PID here
// is not enough: processes of namespaces below have one, too. Only /proc tells
// these apart, so who is hidden there from the pool's user is refused, root too.
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

// isGone asks the kernel, which tells everybody about everybody, unlike /proc.
func isGone(pid int) bool {
	_, err := unix.Getpgid(pid)
	return err == unix.ESRCH
}
