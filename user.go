package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A credential is whom workers run as; the zero one is whom poolinit runs as.
type credential struct {
	name string
	sys  *syscall.Credential
}

var errUser = errors.New("a user name of /etc/passwd, a uid, or uid:gid")

// parseUser reads name, uid or uid:gid; names are allowed on both sides of the
// colon. Without a group it is the user's own one, and its further groups; a
// uid that /etc/passwd does not know gets the group of the same number, never
// root's.
func parseUser(s string) (credential, error) {
	if s == "" {
		return credential{}, nil
	}
	name, group, withGroup := strings.Cut(s, ":")
	c := credential{name: s, sys: new(syscall.Credential)}
	entry, err := lookupUser(name)
	if err != nil {
		return credential{}, err
	}
	if c.sys.Uid, err = id(entry.Uid); err != nil {
		return credential{}, err
	}
	if withGroup {
		c.sys.Gid, err = lookupGroup(group)
		return c, err
	}
	if c.sys.Gid, err = id(entry.Gid); err != nil {
		return credential{}, err
	}
	groups, _ := entry.GroupIds() // no /etc/group, as in scratch images: none
	for _, g := range groups {
		if n, err := id(g); err == nil {
			c.sys.Groups = append(c.sys.Groups, n)
		}
	}
	return c, nil
}

func lookupUser(name string) (*user.User, error) {
	if u, err := user.Lookup(name); err == nil {
		return u, nil
	}
	if _, err := id(name); err != nil {
		return nil, errUser
	}
	if u, err := user.LookupId(name); err == nil {
		return u, nil
	}
	return &user.User{Uid: name, Gid: name}, nil
}

func lookupGroup(name string) (uint32, error) {
	if g, err := user.LookupGroup(name); err == nil {
		name = g.Gid
	}
	return id(name)
}

// id parses a uid or gid; the highest means "no change" to the kernel.
func id(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, errUser
	}
	return uint32(n), nil
}

// allowed checks that this process may become that user, so that it is said
// before anything starts.
func (c credential) allowed() error {
	if c.sys == nil || hasCapability(unix.CAP_SETUID) && hasCapability(unix.CAP_SETGID) {
		return nil
	}
	if os.Geteuid() == 0 {
		return fmt.Errorf("--user %s: poolinit is root, but without the capabilities that it takes to start workers as somebody else; "+
			"give it SETUID and SETGID (docker run --cap-add, capabilities.add in a pod), or start the container as that user and drop --user", c.name)
	}
	return fmt.Errorf("--user %s: poolinit runs as uid %d, and only root may start workers as somebody else; "+
		"drop --user, or start the container as root", c.name, os.Geteuid())
}

// hasCapability reports whether this process has a capability, or may have it: where
// nobody can tell, trying will.
func hasCapability(n uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) != nil || data[n/32].Effective&(1<<(n%32)) != 0
}
