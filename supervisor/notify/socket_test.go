package notify

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
)

// The test binary plays the process that speaks: it sends its arguments to
// NOTIFY_SOCKET, a datagram each, says so, and stays until its stdin ends.
func TestMain(m *testing.M) {
	os.Exit(testkit.Children{"speak": speak}.Main(m))
}

func speak(args []string) int {
	for _, arg := range args {
		if err := send(os.Getenv("NOTIFY_SOCKET"), arg, nil); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	fmt.Println("sent")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// send does what sd_notify(3) does.
func send(socket, text string, fds []int) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(fd, []byte(text), oob, &unix.SockaddrUnix{Name: socket}, 0)
}

// A listener is a Socket with its complaints.
type listener struct {
	*Socket
	t    *testing.T
	once sync.Once

	mu         sync.Mutex
	complaints []error
}

// listen opens a socket that listens to a process group.
func listen(t *testing.T, pgid int) *listener {
	t.Helper()
	l := bound(t)
	l.Serve(pgid)
	return l
}

// bound opens a socket that is not served yet.
func bound(t *testing.T) *listener {
	t.Helper()
	l := &listener{t: t}
	var err error
	l.Socket, err = Listen(func(err error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.complaints = append(l.complaints, err)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// Close closes the socket, once.
func (l *listener) Close() { l.once.Do(l.Socket.Close) }

func (l *listener) complained() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]error(nil), l.complaints...)
}

func (l *listener) send(text string, fds ...int) {
	l.t.Helper()
	if err := send(l.Name(), text, fds); err != nil {
		l.t.Fatal(err)
	}
}

// next returns the next message.
func (l *listener) next() Message {
	l.t.Helper()
	select {
	case m, ok := <-l.Messages():
		if !ok {
			l.t.Fatal("closed")
		}
		return m
	case <-time.After(testkit.Patience):
		l.t.Fatalf("no message; complaints: %v", l.complained())
	}
	return Message{}
}

func (l *listener) want(m Message) {
	l.t.Helper()
	if got := l.next(); got != m {
		l.t.Errorf("got %+v, want %+v", got, m)
	}
}

// speaker starts a child that says texts, and returns when it has. In a group
// of its own it is a stranger to the test's.
func speaker(t *testing.T, socket string, ownGroup bool, texts ...string) *exec.Cmd {
	t.Helper()
	cmd := testkit.Child("speak", texts...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: ownGroup}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait() // it has no news
	})
	answer := make([]byte, 5)
	if _, err := io.ReadFull(stdout, answer); err != nil || string(answer) != "sent\n" {
		t.Fatalf("the child says %q: %v", answer, err)
	}
	return cmd
}

func TestOwnGroupIsHeard(t *testing.T) {
	l := listen(t, unix.Getpgrp())
	l.send("READY=1\nSTATUS=here")
	l.want(Message{Ready: true, Status: "here"})
	speaker(t, l.Name(), false, "STATUS=a child", "STOPPING=1")
	l.want(Message{Status: "a child"})
	l.want(Message{Stopping: true})
	if c := l.complained(); len(c) > 0 {
		t.Errorf("complaints: %v", c)
	}
}

// What was sent before Serve waits.
func TestServeLater(t *testing.T) {
	s, err := Listen(func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	child := speaker(t, s.Name(), true, "READY=1")
	s.Serve(child.Process.Pid)
	select {
	case m := <-s.Messages():
		if !m.Ready {
			t.Errorf("%+v", m)
		}
	case <-time.After(testkit.Patience):
		t.Error("no message")
	}
}

func TestStrangerIsNotHeard(t *testing.T) {
	l := listen(t, unix.Getpgrp())
	speaker(t, l.Name(), true, "READY=1", "STOPPING=1", "garbage", "READY=1")
	l.send("STATUS=after")
	l.want(Message{Status: "after"})
	if c := l.complained(); len(c) != 1 || !errors.Is(c[0], errStranger) {
		t.Errorf("complaints: %v; want one, of a stranger", c)
	}
}

// Nor is a message accepted from a process that was in the group and has ended: its
// group can no longer be looked up.
func TestMessageOfDeadSender(t *testing.T) {
	s, err := Listen(func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	child := speaker(t, s.Name(), false, "READY=1")
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
	s.Serve(unix.Getpgrp())
	defer s.Close()
	if err := send(s.Name(), "STATUS=after", nil); err != nil {
		t.Fatal(err)
	}
	if m := <-s.Messages(); m.Ready || m.Status != "after" {
		t.Errorf("%+v", m)
	}
}

func TestGarbage(t *testing.T) {
	l := listen(t, unix.Getpgrp())
	for range 3 {
		for _, text := range []string{"", "\n", "garbage", "\x00\xff\x00", "STATUS=\xff", "WATCHDOG_USEC=x",
			strings.Repeat("x", MaxMessage+1), "READY=1\nSTATUS=" + strings.Repeat("x", 100_000)} {
			l.send(text)
		}
	}
	l.send("STATUS=after")
	l.want(Message{Status: "after"})
	if c := l.complained(); len(c) != 5 { // empty, no assignment, not UTF-8, watchdog, too long
		t.Errorf("%d complaints, want 5, one of a kind: %v", len(c), c)
	}
}

func TestLongestMessage(t *testing.T) {
	l := listen(t, unix.Getpgrp())
	l.send("READY=1\nSTATUS=" + strings.Repeat("x", MaxMessage-len("READY=1\nSTATUS=")))
	if m := l.next(); !m.Ready || len(m.Status) != maxStatus {
		t.Errorf("%+v", m)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestManyMessagesInOrder(t *testing.T) {
	l := listen(t, unix.Getpgrp())
	const n = 2000
	sent := make(chan error, 1)
	go func() { // ends when all are sent
		for i := range n {
			if err := send(l.Name(), fmt.Sprintf("STATUS=%d", i), nil); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for i := range n {
		if m := l.next(); m.Status != fmt.Sprint(i) {
			t.Fatalf("message %d is %+v", i, m)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// Close ends the messages, also while one waits for a reader.
func TestClose(t *testing.T) {
	for _, waiting := range []int{0, 1, 5} {
		s, err := Listen(func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		s.Serve(unix.Getpgrp())
		for range waiting {
			if err := send(s.Name(), "STATUS=x", nil); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		for range s.Messages() {
			t.Error("a message after Close")
		}
		if err := send(s.Name(), "READY=1", nil); err != unix.ECONNREFUSED {
			t.Errorf("sending to a closed socket: %v", err)
		}
	}
}

// One that was never served is closed without a word.
func TestCloseWithoutServe(t *testing.T) {
	before := openFiles(t)
	for range 50 {
		s, err := Listen(func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors, before it were %d", after, before)
	}
}

func TestNamesAreSecret(t *testing.T) {
	names := map[string]bool{}
	for range 50 {
		s, err := Listen(func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if names[s.Name()] || !strings.HasPrefix(s.Name(), "@poolinit/") || len(s.Name()) < len("@poolinit/")+20 {
			t.Errorf("name %q", s.Name())
		}
		names[s.Name()] = true
	}
}
