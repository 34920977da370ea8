package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/proc"
	"github.com/poolinit/poolinit/supervisor"
)

// The commands of a request.
const (
	cmdStatus = "status"
	cmdHealth = "health"
	cmdReload = "reload"
	cmdStop   = "stop"
	cmdScale  = "scale"
	cmdPause  = "pause"
	cmdResume = "resume"
	cmdQueue  = "queue"
	cmdDrop   = "drop"
)

// The limits of a request.
const (
	MaxIDs  = 1000   // of a drop
	MaxList = 10_000 // messages that a queue request lists
)

type request struct {
	Command string   `json:"command"`
	Wait    bool     `json:"wait,omitempty"`
	Now     bool     `json:"now,omitempty"`     // of stop
	Workers int      `json:"workers,omitempty"` // of scale
	Limit   int      `json:"limit,omitempty"`   // of queue
	IDs     []uint64 `json:"ids,omitempty"`     // of drop
}

var errNotARequest = errors.New("a request is one line of JSON")

// parseRequest reads a line, which may come from any program. What it returns without an
// error is within the limits.
func parseRequest(line []byte) (r request, err error) {
	if json.Unmarshal(line, &r) != nil {
		return request{}, errNotARequest
	}
	switch r.Command {
	case cmdStatus, cmdHealth, cmdReload, cmdStop, cmdPause, cmdResume:
	case cmdScale:
		err = within("workers", r.Workers, supervisor.MaxWorkers)
	case cmdQueue:
		err = within("limit", r.Limit, MaxList)
	case cmdDrop:
		err = within("the number of ids", len(r.IDs), MaxIDs)
	default:
		err = fmt.Errorf("there is no command %q", r.Command)
	}
	return r, err
}

func within(what string, n, most int) error {
	if n < 1 || n > most {
		return fmt.Errorf("%s must be from 1 to %d, not %d", what, most, n)
	}
	return nil
}

// An Answer is a line of every answer but those to status and queue.
type Answer struct {
	Error      string  `json:"error,omitempty"`
	Accepted   bool    `json:"accepted,omitempty"`
	Kills      bool    `json:"kills,omitempty"`
	Live       bool    `json:"live,omitempty"`
	Ready      bool    `json:"ready,omitempty"`
	Reason     string  `json:"reason,omitempty"`
	Stderr     string  `json:"stderr,omitempty"`
	Generation int     `json:"generation,omitempty"`
	Replaced   int     `json:"replaced,omitempty"`
	Workers    int     `json:"workers,omitempty"`
	Outcome    string  `json:"outcome,omitempty"`
	Seconds    float64 `json:"seconds,omitempty"`
	Dropped    int     `json:"dropped,omitempty"`
}

// A List is the answer to queue: messages that wait, those that have waited longest.
// docs/status.md describes it.
type List struct {
	Messages []Waiting `json:"messages"`
	More     int       `json:"more"` // that wait, too
}

// A Waiting is a message that waits for a worker.
type Waiting struct {
	ID       uint64  `json:"id"`
	Source   string  `json:"source"`
	Age      float64 `json:"age_seconds"`
	Bytes    int     `json:"bytes"`
	Attempts int     `json:"attempts"`    // that failed
	Due      float64 `json:"due_seconds"` // until it may be delivered again; 0: now
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
