package sdk

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// A workerEnd is a worker without poolinit: the test has the other end of its
// socket, and of the one for sd_notify.
type workerEnd struct {
	scriptClient
	*harness.Process
	notices chan string
}

func (s scriptSDK) worker(t testing.TB, env ...string) workerEnd {
	t.Helper()
	return s.workerOf(t, "pool", append([]string{"POOLINIT_DELIVER=frames"}, env...)...)
}

// workerOf runs one of the programs in testdata.
func (s scriptSDK) workerOf(t testing.TB, program string, env ...string) workerEnd {
	t.Helper()
	return s.workerAt(t, filepath.Join(s.dir(t), program+s.ext), env...)
}

func (s scriptSDK) workerAt(t testing.TB, path string, env ...string) workerEnd {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "worker")
	conn, err := net.FileConn(ours)
	ours.Close()
	defer theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "notify") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/sock", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		notify.Close()
		os.RemoveAll(dir)
	})
	p := harness.Start(t, harness.Program{Args: []string{s.needs, path}, Files: []*os.File{theirs},
		Env: append([]string{"POOLINIT_FD=3", "POOLINIT_WORKER_ID=5", "POOLINIT_WORKERS=8",
			"POOLINIT_GENERATION=2", "PYTHONUNBUFFERED=", "POOLINIT=" + harness.Binary(t), "NOTIFY_SOCKET=" + dir + "/sock"}, env...)})
	if err := conn.SetDeadline(time.Now().Add(2 * testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	w := workerEnd{scriptClient{t, conn}, p, make(chan string, 1000)}
	go w.listen(notify)
	p.Stdout.Expect(t, "up worker=5 of=8 generation=2")
	return w
}

// listen reads what the worker says until the socket is closed. A BARRIER has been
// answered when it has been read.
func (w workerEnd) listen(notify *net.UnixConn) {
	defer close(w.notices)
	buf := make([]byte, 5000)
	for {
		n, err := notify.Read(buf)
		if err != nil {
			return
		}
		if notice := string(buf[:n]); notice != "BARRIER=1" {
			w.notices <- notice
		}
	}
}

// end ends the worker's input.
func (w workerEnd) end() {
	w.Process.T.Helper()
	if err := w.Conn.(*net.UnixConn).CloseWrite(); err != nil {
		w.Process.T.Fatal(err)
	}
}

func (w workerEnd) wantNotice(want string) {
	w.Process.T.Helper()
	select {
	case got := <-w.notices:
		if got != want {
			w.Process.T.Fatalf("notice %q, want %q\n%s", got, want, w.Stderr.String())
		}
	case <-time.After(testkit.Patience):
		w.Process.T.Fatalf("no notice, want %q\n%s", want, w.Stderr.String())
	}
}

// wantNoNotice checks that nothing has been said that was not wanted.
func (w workerEnd) wantNoNotice() {
	w.Process.T.Helper()
	select {
	case got := <-w.notices:
		w.Process.T.Errorf("notice %q", got)
	default:
	}
}

// wantEnd waits for the end, with this code, and after worker_stop.
func (w workerEnd) wantEnd(code int, says string) {
	w.Process.T.Helper()
	if got := w.Wait(); got != code || !strings.HasSuffix(w.Stdout.String(), "down worker=5\n") || !strings.Contains(w.Stderr.String(), says) {
		w.Process.T.Errorf("exit code %d, want %d\n%s\n%s", got, code, w.Stdout.String(), w.Stderr.String())
	}
}

// frames is what is written for these messages.
func frames(bodies ...string) string {
	var b strings.Builder
	for _, body := range bodies {
		_ = harness.WriteFrame(&b, body) // it never fails
	}
	return b.String()
}

func (w workerEnd) write(bytes string) {
	w.Process.T.Helper()
	if _, err := io.WriteString(w.Conn, bytes); err != nil {
		w.Process.T.Fatal(err)
	}
}

// Messages come in any pieces, many at once and very long; the replies are as many,
// in order. The end of the input is the worker's end.
func TestSDKScriptWorkerFrames(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		w := s.worker(t)
		w.wantNotice("READY=1")
		long := strings.Repeat("long", 3<<20)
		var bodies []string
		for i := range 2000 {
			bodies = append(bodies, fmt.Sprint("message ", i), "")
		}
		bodies = append(bodies, strings.Repeat("l", 32<<10-1), strings.Repeat("m", 32<<10), strings.Repeat("n", 65<<10), long, "last")
		all := frames(bodies...)
		written := make(chan error)
		go func() { // ends when all is written, or the connection is closed
			rest := all
			for _, size := range []int{1, 2, 3, 4, 5, 11, 100, 30_000} {
				_, _ = io.WriteString(w.Conn, rest[:size]) // the last one has the error
				rest = rest[size:]
			}
			_, err := io.WriteString(w.Conn, rest)
			written <- err
		}()
		w.want(bodies...)
		if err := <-written; err != nil {
			t.Error(err)
		}
		w.write(frames("one")[:3])
		w.write(frames("one")[3:] + frames("two"))
		w.want("one", "two")
		w.end()
		w.wantEnd(0, "")
		w.want("EOF")
	})
}

// A message that takes long does not keep the replies of those before it, that came
// with it: also if it never gives up the CPU, or ends the process.
func TestSDKScriptWorkerHolds(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		w := s.worker(t)
		for i := range 3 {
			file := filepath.Join(t.TempDir(), fmt.Sprint("go-on-", i))
			w.write(frames("a", "b", "wait "+file, "c"))
			w.want("a", "b")
			touch(t, file)
			w.want("wait "+file, "c")
		}
		for range 20 { // so that everything that helps has started
			w.write(frames("a", "b", "c", "d"))
			w.want("a", "b", "c", "d")
		}
		w.write(frames("a", "b", "loop"))
		w.want("a", "b")

		w = s.worker(t)
		w.write(frames("a", "b", "exit 3", "c"))
		w.want("a", "b", "EOF")
		w.wantEnd(3, "")
	})
}

// Input that ends where it should not.
func TestSDKScriptWorkerBrokenInput(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		for _, bytes := range []string{"\x00", "\x00\x00\x00\x05hell", "\x7f\xff\xff\xffx", frames("whole") + "\x00\x00\x00\x01"} {
			w := s.worker(t)
			w.write(bytes)
			w.end()
			if strings.HasPrefix(bytes, frames("whole")) {
				w.want("whole")
			}
			w.wantEnd(1, "the input ended in the middle of a message")
		}
	})
}

// Nobody is there any more to answer to.
func TestSDKScriptWorkerBrokenOutput(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		w := s.worker(t)
		file := filepath.Join(t.TempDir(), "go-on")
		w.write(frames("wait " + file))
		w.Stdout.Expect(t, "waiting")
		w.Conn.Close()
		touch(t, file)
		w.wantEnd(1, "the worker's channel broke: ")
	})
}

// On SIGTERM an idle worker ends. It asks for no more, and serves what comes until
// then. If it cannot ask, it serves what is there.
func TestSDKScriptWorkerSIGTERM(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		w := s.worker(t)
		w.write(frames("a"))
		w.want("a")
		w.Signal(syscall.SIGTERM)
		w.wantNotice("READY=1")
		w.wantNotice("STOPPING=1")
		w.write(frames("b"))
		w.want("b")
		w.Signal(syscall.SIGTERM)
		w.write(frames("c"))
		w.want("c")
		w.end()
		w.want("EOF")
		w.wantEnd(0, "")
		w.wantNoNotice()

		w = s.worker(t, "NOTIFY_SOCKET=") // it cannot be told
		file := filepath.Join(t.TempDir(), "go-on")
		w.write(frames("wait "+file, "here already"))
		w.Stdout.Expect(t, "waiting")
		w.Signal(syscall.SIGTERM)
		touch(t, file)
		w.want("wait "+file, "here already", "EOF")
		w.wantEnd(0, "")
	})
}

// With --deliver lines a message is a line, and so is a reply; a worker that fails
// has to end.
func TestSDKScriptWorkerLines(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		for _, bad := range []string{"fail now", "refuse now", "print \nnow"} {
			w := s.worker(t, "POOLINIT_DELIVER=lines")
			good := "one\n\ntw"
			w.write(good)
			w.write("o\n" + strings.Repeat("l", 300_000) + "\n")
			want := "one\n\ntwo\n" + strings.Repeat("l", 300_000) + "\n"
			got := make([]byte, len(want))
			if _, err := io.ReadFull(w.Conn, got); err != nil || string(got) != want {
				t.Fatalf("%.100q, %v", got, err)
			}
			if strings.Contains(bad, "\n") {
				w.write("none\n")
				w.end()
				if got, err := io.ReadAll(w.Conn); err != nil || string(got) != "\n" {
					t.Errorf("%q, %v", got, err)
				}
				w.wantEnd(0, "")
				continue
			}
			w.write("before\n" + bad + "\nafter\n")
			if got, err := io.ReadAll(w.Conn); string(got) != "before\n" || err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%q, %v", got, err)
			}
			w.wantEnd(1, "--deliver lines cannot tell: ")
		}
	})
}
