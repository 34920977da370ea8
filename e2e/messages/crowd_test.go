package messages

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// Ten thousand clients that say nothing any more, and five hundred that are too many, take nothing
// from one that is served, and none of those that were there first is forgotten.
func TestIdleCrowdAndFlood(t *testing.T) {
	const idle, flood = 10_000, 500
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur < idle+flood+500 {
		strict.Skip(t, "%d open files are allowed, and %d connections need more", files.Cur, idle)
	}
	url := harness.UnixURL(t, "")
	path := strings.TrimPrefix(url, "unix://")
	p := harness.StartSource(t, harness.Program{Child: chaosWorker}, url+"?reply=always&idle=0s&connections=10001", "--", harness.Self(t), os.DevNull)
	var crowd []net.Conn
	join := func() net.Conn {
		nc, err := dialPatiently(path)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(2 * testkit.Patience))
		crowd = append(crowd, nc)
		return nc
	}
	defer func() {
		for _, nc := range crowd {
			nc.Close()
		}
	}()
	ask := func(nc net.Conn) {
		t.Helper()
		if err := harness.WriteFrame(nc, "hello"); err != nil {
			t.Fatal(err)
		}
		if reply, failed, err := harness.ReadFrame(nc); string(reply) != "hello" || failed || err != nil {
			t.Fatalf("%q, %v, %v", reply, failed, err)
		}
	}
	for range idle {
		ask(join()) // one that has never said anything would make room for another
	}
	served := join()
	ask(served)
	for range flood {
		if n, err := join().Read(make([]byte, 1)); n != 0 || err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("one too many: %d, %v", n, err)
		}
		ask(served)
	}
	for _, i := range []int{0, idle / 2, idle - 1} {
		ask(crowd[i])
	}
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// dialPatiently connects as soon as there is room in the backlog.
func dialPatiently(path string) (nc net.Conn, err error) {
	for deadline := time.Now().Add(testkit.Patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if nc, err = net.Dial("unix", path); !errors.Is(err, syscall.EAGAIN) {
			return nc, err
		}
	}
	return nil, err
}
