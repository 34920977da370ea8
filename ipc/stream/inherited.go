package stream

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstInherited is the first descriptor that a manager hands on.
const firstInherited = 3

// An Inherited is a socket that this process was given by systemd's protocol.
type Inherited struct {
	FD   int
	Name string // of LISTEN_FDNAMES; "": it has none
}

// maxInherited bounds what LISTEN_FDS may say.
const maxInherited = 1024

// InheritedSockets returns the sockets that an environment tells the process pid of
// (sd_listen_fds(3)). Variables that are for another process, such as the parent, say
// nothing about this one.
func InheritedSockets(getenv func(string) string, pid int) []Inherited {
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || n < 1 || n > maxInherited || getenv("LISTEN_PID") != strconv.Itoa(pid) {
		return nil
	}
	names := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	list := make([]Inherited, n)
	for i := range list {
		list[i].FD = firstInherited + i
		if i < len(names) {
			list[i].Name = names[i]
		}
	}
	return list
}

var errInherited = errors.New("fd://NAME, with a name of LISTEN_FDNAMES, or a number from 3 on")

// inherit takes the socket that the share is called after.
func (s *Share) inherit(list []Inherited) error {
	var found []Inherited
	for _, in := range list {
		if in.Name == s.inherited || strconv.Itoa(in.FD) == s.inherited {
			found = append(found, in)
		}
	}
	switch {
	case len(list) == 0:
		return fmt.Errorf("cannot share %s: poolinit was given no sockets (LISTEN_FDS, and LISTEN_PID=%d)", s.URL, os.Getpid())
	case len(found) == 0:
		return fmt.Errorf("cannot share %s: poolinit was given %s", s.URL, describe(list))
	case len(found) > 1:
		return fmt.Errorf("cannot share %s: there are several, of %s; use a number", s.URL, describe(list))
	}
	fd := found[0].FD
	if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return fmt.Errorf("cannot share %s: descriptor %d is not an open socket: %w", s.URL, fd, err)
	}
	unix.CloseOnExec(fd)
	s.file, s.fd = os.NewFile(uintptr(fd), s.URL), uintptr(fd)
	return nil
}

func describe(list []Inherited) string {
	words := make([]string, len(list))
	for i, in := range list {
		words[i] = fmt.Sprintf("fd://%d", in.FD)
		if in.Name != "" {
			words[i] += fmt.Sprintf(" (%s)", in.Name)
		}
	}
	return strings.Join(words, ", ")
}

// CloseUnused closes inherited sockets that no share hands on: clients that connect
// to one would wait for ever. It says which these are, or "".
func CloseUnused(list []Inherited, shares []*Share) string {
	rest := slices.DeleteFunc(slices.Clone(list), func(in Inherited) bool {
		return slices.ContainsFunc(shares, func(s *Share) bool { return s.inherited != "" && s.fd == uintptr(in.FD) })
	})
	if len(rest) == 0 {
		return ""
	}
	for _, in := range rest {
		if _, err := unix.GetsockoptInt(in.FD, unix.SOL_SOCKET, unix.SO_TYPE); err == nil { // not a descriptor of this program's own
			unix.Close(in.FD)
		}
	}
	return describe(rest)
}
