package flags

import (
	"os"
	"os/user"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit/strict"
	"github.com/poolinit/poolinit/reaper/proc"
)

func TestParseUser(t *testing.T) {
	if _, err := user.Lookup("daemon"); err != nil {
		strict.Skip(t, "no /etc/passwd with a daemon: %v", err)
	}
	if _, err := user.LookupGroup("daemon"); err != nil {
		strict.Skip(t, "no /etc/group with a daemon: %v", err)
	}
	daemon, err := user.Lookup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	uid, gid := number(t, daemon.Uid), number(t, daemon.Gid)
	for in, want := range map[string]syscall.Credential{
		"daemon":        {Uid: uid, Gid: gid, Groups: groupsOf(t, daemon)},
		daemon.Uid:      {Uid: uid, Gid: gid, Groups: groupsOf(t, daemon)},
		"daemon:7":      {Uid: uid, Gid: 7},
		"daemon:daemon": {Uid: uid, Gid: gid},
		"12345:daemon":  {Uid: 12345, Gid: gid},
		"12345:54321":   {Uid: 12345, Gid: 54321},
		"3000000001":    {Uid: 3000000001, Gid: 3000000001, Groups: []uint32{3000000001}}, // unknown: never root's group
		"4294967294":    {Uid: 4294967294, Gid: 4294967294, Groups: []uint32{4294967294}},
		"0:0":           {},
	} {
		got, err := ParseUser(in)
		if err != nil {
			t.Errorf("ParseUser(%q): %v", in, err)
			continue
		}
		if got.Name != in || !reflect.DeepEqual(*got.Credential, want) {
			t.Errorf("ParseUser(%q) = %+v, want %+v", in, *got.Credential, want)
		}
	}
	if got, err := ParseUser(""); err != nil || got.Credential != nil {
		t.Errorf(`ParseUser("") = %+v, %v`, got, err)
	}
}

func number(t *testing.T, s string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func groupsOf(t *testing.T, u *user.User) (groups []uint32) {
	t.Helper()
	ids, err := u.GroupIds()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range ids {
		groups = append(groups, number(t, g))
	}
	return groups
}

// Who may not become another user hears of it before anything starts.
func TestUserNeedsRoot(t *testing.T) {
	nobody := User{Name: "nobody", Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	err := nobody.Allowed()
	switch {
	case os.Geteuid() == 0:
		if err != nil {
			t.Errorf("root: %v", err)
		}
		rootWithout(t)
	case err == nil || !strings.Contains(err.Error(), "only root"):
		t.Errorf("not root: %v", err)
	}
	if err := new(User).Allowed(); err != nil {
		t.Errorf("no --user: %v", err)
	}
}

// rootWithout is root in a container without capabilities: a thread of this process is, for a moment.
func rootWithout(t *testing.T) {
	t.Helper()
	result := make(chan error)
	go func() { // its thread ends with it
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			result <- err
			return
		}
		result <- User{Name: "nobody", Credential: new(syscall.Credential)}.Allowed()
	}()
	if err := <-result; err == nil || !strings.Contains(err.Error(), "--user nobody") || !strings.Contains(err.Error(), "SETUID") {
		t.Errorf("root without capabilities: %v", err)
	}
}

func TestUserEnviron(t *testing.T) {
	named := User{Credential: new(syscall.Credential), login: "www", home: "/var/www"}
	unnamed := User{Credential: new(syscall.Credential), home: "/"}
	for _, tt := range []struct {
		user     User
		env, got []string
	}{
		{User{}, []string{"HOME=/root", "A=1"}, []string{"HOME=/root", "A=1"}},
		{named, []string{"HOME=/root", "A=1", "USER=root", "LOGNAME=root"}, []string{"A=1", "HOME=/var/www", "LOGNAME=www", "USER=www"}},
		{named, []string{"A=1"}, []string{"A=1", "HOME=/var/www", "LOGNAME=www", "USER=www"}},
		{named, []string{"HOME=/srv", "USER=me", "LOGNAME=root"}, []string{"HOME=/srv", "USER=me", "LOGNAME=www"}},
		{named, []string{"HOME=", "HOMEPAGE=/root"}, []string{"HOME=", "HOMEPAGE=/root", "LOGNAME=www", "USER=www"}},
		{unnamed, []string{"HOME=/root", "USER=root", "LOGNAME=me"}, []string{"LOGNAME=me", "HOME=/"}},
	} {
		if got := tt.user.Environ(tt.env); !reflect.DeepEqual(got, tt.got) {
			t.Errorf("%q becomes %q, want %q", tt.env, got, tt.got)
		}
	}
}

// A rootless container has only some ids.
func TestUserOfTheNamespace(t *testing.T) {
	users, groups := proc.IDMap{0, 1000}, proc.IDMap{0, 1000, 5000, 1}
	for in, want := range map[string]string{
		"7:8":      "",
		"999:5000": "",
		"1000:7":   "--user 1000:7: this container's user namespace does not have uid 1000, only 0-999; take one",
		"7:1000":   "--user 7:1000: this container's user namespace does not have gid 1000, only 0-999, 5000; take one",
	} {
		u, err := ParseUser(in)
		if err != nil {
			t.Fatal(err)
		}
		err = u.mapped(users, groups)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}
