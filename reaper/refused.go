package reaper

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A probe is a system call with arguments that make it do nothing: it fails, but
// not with an error that a kernel without the call, or a seccomp profile, gives.
type probe struct {
	number uintptr
	args   [5]uintptr
}

const (
	noFD    = ^uintptr(0)      // -1
	noFlags = uintptr(1 << 20) // a flag that none of the calls below knows: wait4 knows 1<<29 and above
)

// probes are the calls that poolinit needs, or can do without if it knows, and that
// the Go runtime does not make itself at the start.
func probes() map[string]probe {
	return map[string]probe{
		"accept4":      {unix.SYS_ACCEPT4, [5]uintptr{noFD}},
		"bind":         {unix.SYS_BIND, [5]uintptr{noFD}},
		"connect":      {unix.SYS_CONNECT, [5]uintptr{noFD}},
		"flock":        {unix.SYS_FLOCK, [5]uintptr{noFD}},
		"fsync":        {unix.SYS_FSYNC, [5]uintptr{noFD}},
		"getsockopt":   {unix.SYS_GETSOCKOPT, [5]uintptr{noFD}},
		"listen":       {unix.SYS_LISTEN, [5]uintptr{noFD}},
		"memfd_create": {unix.SYS_MEMFD_CREATE, [5]uintptr{0, noFlags}},
		"msgget":       {unix.SYS_MSGGET, [5]uintptr{^uintptr(1)}}, // without IPC_CREAT none is made
		"msgrcv":       {unix.SYS_MSGRCV, [5]uintptr{noFD}},
		"pipe2":        {unix.SYS_PIPE2, [5]uintptr{0, noFlags}},
		"recvmsg":      {unix.SYS_RECVMSG, [5]uintptr{noFD}},
		"sendmsg":      {unix.SYS_SENDMSG, [5]uintptr{noFD}},
		"setgroups":    {unix.SYS_SETGROUPS, [5]uintptr{noFlags}},
		"setpgid":      {unix.SYS_SETPGID, [5]uintptr{0, noFD}},
		"setsockopt":   {unix.SYS_SETSOCKOPT, [5]uintptr{noFD}},
		"socket":       {unix.SYS_SOCKET, [5]uintptr{noFD}},
		"socketpair":   {unix.SYS_SOCKETPAIR, [5]uintptr{noFD}},
		"wait4":        {unix.SYS_WAIT4, [5]uintptr{noFD, 0, noFlags | unix.WNOHANG}},
		"waitid":       {unix.SYS_WAITID, [5]uintptr{unix.P_ALL, 0, 0, noFlags | unix.WNOHANG}},
		"prctl":        {unix.SYS_PRCTL, [5]uintptr{unix.PR_SET_PDEATHSIG, noFlags}},
	}
}

// Refused returns an error if the kernel does not have a system call, or a seccomp
// profile does not allow it. The name must be one of those that are known.
func Refused(name string) error {
	p := probes()[name]
	_, _, errno := unix.Syscall6(p.number, p.args[0], p.args[1], p.args[2], p.args[3], p.args[4], 0)
	switch errno {
	case unix.EPERM, unix.ENOSYS:
		return fmt.Errorf("the kernel, or a seccomp profile, refuses %s: %w", name, errno)
	}
	return nil
}

// refusals are the system calls that a Reaper can do without.
type refusals struct {
	waitid, setpgid, prctl error
}

func findRefusals() refusals {
	return refusals{waitid: Refused("waitid"), setpgid: Refused("setpgid"), prctl: Refused("prctl")}
}

// possible returns a spec without what the kernel refuses.
func (f *refusals) possible(spec *Spec) *Spec {
	s := *spec
	if f.setpgid != nil {
		s.NewGroup, s.Terminal = false, nil
	}
	if f.prctl != nil {
		s.DeathSignal = 0
	}
	return &s
}

// A Lack is a system call that is refused, and what is different without it.
type Lack struct {
	Err    error
	Effect string
}

func (f *refusals) lacks() (lacks []Lack) {
	for _, l := range []Lack{
		{f.waitid, "children are reaped by wait4 alone"},
		{f.setpgid, "workers have no process group of their own: what they start is not signalled with them"},
		{f.prctl, "workers do not end by themselves if poolinit is killed"},
	} {
		if l.Err != nil {
			lacks = append(lacks, l)
		}
	}
	return lacks
}
