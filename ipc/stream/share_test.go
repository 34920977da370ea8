package stream

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

func TestParseShare(t *testing.T) {
	for url, want := range map[string]string{
		"tcp://0.0.0.0:8080":                        "tcp-8080",
		"tcp://[::1]:443":                           "tcp-443",
		"tcp://localhost:80?name=web":               "web",
		"unix:///run/http.sock":                     "unix-http.sock",
		"unix:///run/a:b c?mode=0600":               "unix-a_b_c",
		"unix:///run/x?mode=0600&name=a.b-c_d@1":    "a.b-c_d@1",
		"tcp://:1?name=" + strings.Repeat("x", 255): strings.Repeat("x", 255),
	} {
		s, err := ParseShare(url)
		if err != nil || s.Name != want {
			t.Errorf("%s: %v %v, want %s", url, s, err, want)
		}
	}
	for url, want := range map[string]string{
		"":                                    "tcp://0.0.0.0:8080 or unix://",
		"8080":                                "tcp://0.0.0.0:8080 or unix://",
		"http://x:80":                         "tcp://0.0.0.0:8080 or unix://",
		"sysv://0x1":                          "tcp://0.0.0.0:8080 or unix://",
		"tcp://x":                             "tcp://HOST:PORT",
		"tcp://x:70000":                       "from 0 to 65535",
		"unix://relative":                     "absolute",
		"unix:///" + strings.Repeat("x", 107): "107 bytes",
		"tcp://x:1?reply=always":              "not reply=always",
		"tcp://x:1?mode=0600":                 "not mode=0600",
		"tcp://x:1?cert=a&key=b":              "a shared socket has the parameters",
		"unix:///x?mode=rw":                   "mode=rw",
		"tcp://x:1?name=":                     "1 to 255",
		"tcp://x:1?name=a:b":                  "no colon",
		"tcp://x:1?name=a%20b":                "no space",
		"tcp://x:1?name=a&name=b":             "not name=b",
		"tcp://:1?name=" + strings.Repeat("x", 256): "1 to 255",
		"tcp://x:1?name=%zz":                        "parameters such as",
	} {
		if s, err := ParseShare(url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v %v, want %q", url, s, err, want)
		}
	}
}

// opens tries a message source and a shared socket.
func opens(t *testing.T, url, want string) {
	t.Helper()
	u, err := parseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	src, err := u.open(ipc.NewQueue(ipctest.Config(nil), zerolog.Nop()), zerolog.Nop())
	if err == nil {
		src.Close()
	}
	s, serr := ParseShare(url)
	if serr == nil {
		if serr = s.Open(nil); serr == nil {
			s.Close()
		}
	}
	for _, err := range []error{err, serr} {
		if err == nil || !strings.HasPrefix(err.Error(), "cannot listen on "+url+": ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
}

func TestBadAddresses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	live, err := net.Listen("unix", filepath.Join(dir, "live"))
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	opens(t, "tcp://"+taken.Addr().String(), "address already in use")
	opens(t, "tcp://192.0.2.1:0", "cannot assign requested address")
	opens(t, "tcp://no-such-host.invalid:0", "no-such-host.invalid")
	opens(t, "unix://"+dir, "exists and is not a socket")
	opens(t, "unix://"+file, "exists and is not a socket")
	opens(t, "unix://"+filepath.Join(dir, "live"), "another process listens on")
	opens(t, "unix://"+filepath.Join(dir, "none", "x"), "no such file or directory: make the directory "+dir+"/none, or choose another one")
	opens(t, "unix://"+ipctest.SmallDisk(t, unix.MS_RDONLY)+"/x", "read-only file system: mount a volume on")
	opens(t, "unix:///proc/poolinit.sock", "") // not even root may make a file there
	for _, path := range []string{dir, file, filepath.Join(dir, "live")} {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}

// What a process that was killed left is replaced, and removed at the end.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stale")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	s, err := ParseShare("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(nil); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// A worker that makes the socket non-blocking, as servers do, finds it so for
// ever: another worker's start must not change it under its hands.
func TestShareLeavesNonblockAlone(t *testing.T) {
	s, err := ParseShare("tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(nil); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	nonblock := func() bool {
		t.Helper()
		flags, err := unix.FcntlInt(s.Fd(), unix.F_GETFL, 0)
		if err != nil {
			t.Fatal(err)
		}
		return flags&unix.O_NONBLOCK != 0
	}
	if nonblock() {
		t.Error("not blocking")
	}
	if err := unix.SetNonblock(int(s.Fd()), true); err != nil {
		t.Fatal(err)
	}
	if s.Fd(); !nonblock() {
		t.Error("blocking again")
	}
}
