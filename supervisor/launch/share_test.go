package launch

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/internal/testkit/strict"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/stream"
	"github.com/poolinit/poolinit/reaper"
)

// share opens shared sockets for the test.
func share(t *testing.T, urls ...string) (list []*stream.Share) {
	t.Helper()
	for _, u := range urls {
		s, err := stream.ParseShare(u)
		if err == nil {
			err = s.Open(nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		list = append(list, s)
	}
	return list
}

func TestShareIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "http.sock")
	c := launcher(t, "")
	c.Shares = share(t, "tcp://127.0.0.1:0", "unix://"+path+"?name=admin")
	c.Queue, c.Deliver = ipc.NewQueue(ipc.Config{Window: 1}, zerolog.Nop()), "frames"
	c.Args = []string{"sh", "-c", `echo $$; env; ls -l /proc/$$/fd; exit`}
	got := c.run(t)
	for _, want := range []string{"LISTEN_PID=" + got[0], "LISTEN_FDS=2", "LISTEN_FDNAMES=tcp-0:admin", "POOLINIT_FD=5", "POOLINIT_WORKER_ID=3"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s in %q", want, got)
		}
	}
	var sockets []string
	for _, line := range got {
		if _, link, ok := strings.Cut(line, ":"); ok && strings.Contains(link, " -> ") {
			words := strings.Fields(link)
			fd, to := words[len(words)-3], words[len(words)-1]
			switch {
			case strings.HasPrefix(to, "socket:"):
				sockets = append(sockets, fd)
			case fd > "2":
				t.Errorf("it has %s", line)
			}
		}
	}
	if !slices.Equal(sockets, []string{"3", "4", "5"}) {
		t.Errorf("sockets %q in %q", sockets, got)
	}
}

// What exec hands on is the same with shared sockets as without.
func TestShareChangesNothingElse(t *testing.T) {
	look := func(shares []*stream.Share) string {
		c := launcher(t, "")
		c.Shares = shares
		c.Args = []string{"sh", "-c", `grep -E '^(Sig|Shd|Cap|NoNew|Uid)' /proc/self/status | grep -v SigQ; ulimit -Sn; ulimit -Hn; ` +
			`cut -d' ' -f 5 /proc/$$/stat | grep -qx $$ && echo leads; tr '\0' ' ' </proc/$$/cmdline; pwd`}
		return strings.Join(c.run(t), "\n")
	}
	if with, without := look(share(t, "tcp://127.0.0.1:0")), look(nil); with != without || !strings.Contains(with, "leads") {
		t.Errorf("with shared sockets:\n%s\nwithout:\n%s", with, without)
	}
}

func TestShareUser(t *testing.T) {
	if os.Geteuid() != 0 {
		strict.Skip(t, "only root can start workers as another user")
	}
	c := launcher(t, "")
	c.Shares = share(t, "tcp://127.0.0.1:0")
	c.Args = []string{"sh", "-c", "id -u; id -g; id -G"}
	c.Credential = &syscall.Credential{Uid: 12345, Gid: 54321, Groups: []uint32{7}}
	if got := strings.Join(c.run(t), " "); got != "12345 54321 54321 7" {
		t.Errorf("it is %q", got)
	}
}

// A start that fails fails as without shared sockets.
func TestShareFailedStart(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/no/such/shell\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	shares := share(t, "tcp://127.0.0.1:0")
	for _, command := range []string{"./no-such-program", "no-such-program", "/", "./launch.go", script} {
		c := launcher(t, "")
		c.Args = []string{command, "x"}
		want := start(c)
		c.Shares = shares
		got := start(c)
		if got == nil || got.Error() != want.Error() || reaper.ExitCode(got) != reaper.ExitCode(want) {
			t.Errorf("%s: %v, want %v", command, got, want)
		}
		for _, is := range []error{fs.ErrNotExist, fs.ErrPermission} {
			if errors.Is(want, is) && !errors.Is(got, is) {
				t.Errorf("%s: %v is not %v", command, got, is)
			}
		}
	}
}

// A script without #! is run by the shell, as without shared sockets.
func TestShareBareScript(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("echo $LISTEN_FDS $1"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := launcher(t, "")
	c.Shares = share(t, "tcp://127.0.0.1:0")
	c.Args = []string{script, "word"}
	if got := c.run(t); got[0] != "1 word" {
		t.Errorf("%q", got)
	}
}

// The socket is left as systemd leaves it, and takes connections before there is
// a worker.
func TestShareSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := share(t, "unix://"+path+"?mode=0600")[0]
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi, err)
	}
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	c := launcher(t, "")
	c.Shares = []*stream.Share{s}
	c.Args = []string{"grep", "flags", "/proc/self/fdinfo/3"}
	if got := c.run(t); got[0] != "flags:\t02" { // O_RDWR, not O_NONBLOCK nor O_CLOEXEC
		t.Errorf("%q", got)
	}
}
