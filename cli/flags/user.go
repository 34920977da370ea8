package flags

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/proc"
)

// A User is the user that workers run as; the zero one is poolinit's own.
type User struct {
	Name       string // as it was given
	Credential *syscall.Credential
	login      string // "": /etc/passwd does not have the user
	home       string
}

var errUser = errors.New("a user name of /etc/passwd, a uid, or uid:gid")

// ParseUser reads name, uid or uid:gid; names are allowed on both sides of the
// colon. If no group is given, the user's own group and supplementary groups
// apply. A uid that is not in /etc/passwd gets the group of the same number, never
// root's.
func ParseUser(s string) (User, error) {
	if s == "" {
		return User{}, nil
	}
	name, group, withGroup := strings.Cut(s, ":")
	u := User{Name: s, Credential: new(syscall.Credential)}
	entry, err := lookupUser(name)
	if err != nil {
		return User{}, err
	}
	u.login, u.home = entry.Username, entry.HomeDir
	if u.Credential.Uid, err = id(entry.Uid); err != nil {
		return User{}, err
	}
	if withGroup {
		u.Credential.Gid, err = lookupGroup(group)
		return u, err
	}
	if u.Credential.Gid, err = id(entry.Gid); err != nil {
		return User{}, err
	}
	groups, _ := entry.GroupIds() // no /etc/group, as in scratch images: none
	for _, g := range groups {
		if n, err := id(g); err == nil {
			u.Credential.Groups = append(u.Credential.Groups, n)
		}
	}
	return u, nil
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
	return &user.User{Uid: name, Gid: name, HomeDir: "/"}, nil // as docker does
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

// Allowed returns an error if this process may not start workers as that user.
// Without this check it would be known only at the first start.
func (u User) Allowed() error {
	if u.Credential == nil {
		return nil
	}
	if err := u.mapped(proc.UserMap(), proc.GroupMap()); err != nil {
		return err
	}
	if hasCapability(unix.CAP_SETUID) && hasCapability(unix.CAP_SETGID) {
		return nil
	}
	if os.Geteuid() == 0 {
		return fmt.Errorf("--user %s: poolinit is root, but lacks the capabilities to start workers as another user; "+
			"give it SETUID and SETGID (docker run --cap-add, capabilities.add in a pod), or start the container as that user and drop --user", u.Name)
	}
	return fmt.Errorf("--user %s: poolinit runs as uid %d, and only root may start workers as another user; "+
		"drop --user, or start the container as root", u.Name, os.Geteuid())
}

// hasCapability reports whether this process has a capability. It also does so
// where the kernel does not say: then the first start of a worker shows it.
func hasCapability(n uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) != nil || data[n/32].Effective&(1<<(n%32)) != 0
}

// Environ returns an environment for the user: HOME, USER and LOGNAME are its own if
// they were missing or root's. A user without a name has no USER and LOGNAME then.
func (u User) Environ(env []string) []string {
	if u.Credential == nil {
		return env
	}
	own := map[string]string{"HOME": u.home, "USER": u.login, "LOGNAME": u.login}
	roots := map[string]string{"HOME": "/root", "USER": "root", "LOGNAME": "root"}
	kept := make([]string, 0, len(env)+len(own))
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		if root, ok := roots[name]; ok {
			if value == root {
				continue
			}
			delete(own, name)
		}
		kept = append(kept, v)
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if own[name] != "" {
			kept = append(kept, name+"="+own[name])
		}
	}
	return kept
}

// mapped returns an error if the user namespace, that of a rootless container for
// one, does not have the ids of the user.
func (u User) mapped(users, groups proc.IDMap) error {
	const remedy = "take one of these, or give the container more (podman --uidmap and --gidmap, /etc/subuid and /etc/subgid)"
	if uid := u.Credential.Uid; !users.Has(uid) {
		return fmt.Errorf("--user %s: this container's user namespace does not have uid %d, only %s; %s", u.Name, uid, users, remedy)
	}
	for _, gid := range append([]uint32{u.Credential.Gid}, u.Credential.Groups...) {
		if !groups.Has(gid) {
			return fmt.Errorf("--user %s: this container's user namespace does not have gid %d, only %s; %s", u.Name, gid, groups, remedy)
		}
	}
	return nil
}
