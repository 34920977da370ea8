package stream

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestInheritedSockets(t *testing.T) {
	for env, want := range map[[3]string]string{
		{"2", "7", "a:b"}:     "fd://3 (a), fd://4 (b)",
		{"2", "7", ""}:        "fd://3, fd://4",
		{"2", "7", "a"}:       "fd://3 (a), fd://4",
		{"1", "7", "a:b:c"}:   "fd://3 (a)",
		{"2", "8", "a:b"}:     "", // another process's
		{"2", "", "a:b"}:      "",
		{"0", "7", ""}:        "",
		{"-1", "7", ""}:       "",
		{"x", "7", ""}:        "",
		{"1000000", "7", ""}:  "",
		{"", "7", ""}:         "",
		{"3", "7", "::c"}:     "fd://3, fd://4, fd://5 (c)",
		{"1", " 7", "a:b"}:    "",
		{"1", "7", "a b\x1b"}: "fd://3 (a b\x1b)",
	} {
		get := func(name string) string {
			return map[string]string{"LISTEN_FDS": env[0], "LISTEN_PID": env[1], "LISTEN_FDNAMES": env[2]}[name]
		}
		if got := describe(InheritedSockets(get, 7)); got != want {
			t.Errorf("%q: %q, want %q", env, got, want)
		}
	}
}

// inheritable is a socket that listens, as a descriptor.
func inheritable(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := fileOf(ln)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestShareInherited(t *testing.T) {
	web, api, spare := inheritable(t), inheritable(t), inheritable(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	given := []Inherited{{web, "web"}, {api, "api"}, {spare, "api"}, {int(null.Fd()), "null"}}
	var shares []*Share
	for url, want := range map[string]string{
		"fd://web":                         "web",
		fmt.Sprintf("fd://%d?name=b", api): "b",
	} {
		s, err := ParseShare(url)
		if err != nil || s.Name != want {
			t.Fatalf("%s: %+v, %v", url, s, err)
		}
		if err := s.Open(given); err != nil {
			t.Fatal(err)
		}
		shares = append(shares, s)
	}
	for url, want := range map[string]string{
		"fd://api": "there are several, of fd://", "fd://none": "was given fd://", "fd://null": "is not an open socket",
	} {
		if s, err := ParseShare(url); err != nil {
			t.Error(err)
		} else if err := s.Open(given); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
	}
	if s, _ := ParseShare("fd://web"); s.Open(nil) == nil {
		t.Error("a socket that was not given")
	}
	if got, want := CloseUnused(given, shares), fmt.Sprintf("fd://%d (api), fd://%d (null)", spare, null.Fd()); got != want {
		t.Errorf("unused: %s, want %s", got, want)
	}
	for fd, open := range map[int]bool{web: true, api: true, spare: false, int(null.Fd()): true} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); (err == nil) != open {
			t.Errorf("descriptor %d: %v", fd, err)
		}
	}
	for _, s := range shares {
		s.Close()
	}
	for _, url := range []string{"fd://", "fd://a:b", "fd://a/b", "fd://a b", "fd://x?mode=0600", "fd://x?name="} {
		if s, err := ParseShare(url); err == nil {
			t.Errorf("%s: %+v", url, s)
		}
	}
}
