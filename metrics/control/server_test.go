package control

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/supervisor"
)

const (
	notALine = `{"error":"a request is one line of JSON"}` + "\n"
	tooLate  = `{"error":"no request came in time"}` + "\n"
)

func TestWhatIsAnswered(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct{ request, want string }{
		{"{\"command\":\"health\"}\n", `{"live":true,"ready":true}` + "\n"},
		{"{\"command\":\"health\"}\r\n", `{"live":true,"ready":true}` + "\n"},
		{"  {\"wait\":false, \"command\" : \"health\", \"more\":[1]} \n{\"command\":\"stop\"}\n", `{"live":true,"ready":true}` + "\n"}, // one a connection
		{"{\"command\":\"" + strings.Repeat("x", maxRequest-20) + "\"}\n", `{"error":"there is no command \"` + strings.Repeat("x", maxRequest-20) + `\""}` + "\n"},
		{"{\"command\":\"Status\"}\n", `{"error":"there is no command \"Status\""}` + "\n"},
		{"{}\n", `{"error":"there is no command \"\""}` + "\n"},
		{"null\n", `{"error":"there is no command \"\""}` + "\n"},
		{"\n", notALine},
		{"status\n", notALine},
		{"{\"command\":\"status\"\n", notALine},
		{"[\"status\"]\n", notALine},
		{"{\"command\":7}\n", notALine},
		{"{\"command\":\"stop\",\"wait\":\"yes\"}\n", notALine},
		{"{\"command\":\"scale\"}\n", `{"error":"workers must be from 1 to 65536, not 0"}` + "\n"},
		{"{\"command\":\"scale\",\"workers\":-1}\n", `{"error":"workers must be from 1 to 65536, not -1"}` + "\n"},
		{"{\"command\":\"scale\",\"workers\":65537}\n", `{"error":"workers must be from 1 to 65536, not 65537"}` + "\n"},
		{"{\"command\":\"scale\",\"workers\":1.5}\n", notALine},
		{"{\"command\":\"queue\"}\n", `{"error":"limit must be from 1 to 10000, not 0"}` + "\n"},
		{"{\"command\":\"queue\",\"limit\":10001}\n", `{"error":"limit must be from 1 to 10000, not 10001"}` + "\n"},
		{"{\"command\":\"drop\",\"ids\":[]}\n", `{"error":"the number of ids must be from 1 to 1000, not 0"}` + "\n"},
		{"{\"command\":\"drop\",\"ids\":[1" + strings.Repeat(",1", MaxIDs) + "]}\n", `{"error":"the number of ids must be from 1 to 1000, not 1001"}` + "\n"},
		{"{\"command\":\"drop\",\"ids\":[-1]}\n", notALine},
		{"{\"command\":\"drop\",\"ids\":[18446744073709551616]}\n", notALine},
		{"{\"command\":\"drop\",\"ids\":7}\n", notALine},
		{"\x00\x00\x00\x05hello\n", notALine},
		{"GET / HTTP/1.1\r\n\r\n", notALine},
		{strings.Repeat("[", maxRequest-1) + "\n", notALine},
		{"{\"command\":\"stop\"}" + strings.Repeat(" ", maxRequest), notALine}, // the end of the line comes too late
		{strings.Repeat("x", 1<<20), notALine},
	} {
		if got := w.answer(tt.request); got != tt.want {
			t.Errorf("%.100q is answered %.200q, want %.200q", tt.request, got, tt.want)
		}
	}
	if asked := w.pool.asks(); asked != "" {
		t.Errorf("the pool was asked: %s", asked)
	}
}

// Half a request is none, whether its end comes by the clock or by the client.
func TestHalfARequest(t *testing.T) {
	w := newWorld(t)
	for want, end := range map[string]func(*net.UnixConn){
		notALine: func(c *net.UnixConn) { _ = c.CloseWrite() },
		tooLate:  func(*net.UnixConn) {},
	} {
		var conns []*net.UnixConn
		for _, half := range []string{`{"command":"stop"`, `{"command":"stop"}`} {
			conn := w.dial()
			if _, err := io.WriteString(conn, half); err != nil {
				t.Fatal(err)
			}
			end(conn)
			conns = append(conns, conn)
		}
		for _, conn := range conns {
			if text, err := io.ReadAll(conn); err != nil || string(text) != want {
				t.Errorf("%q, %v; want %q", text, err, want)
			}
		}
	}
	if asked := w.pool.asks(); asked != "" {
		t.Errorf("the pool was asked: %s", asked)
	}
}

// Clients that say nothing do not hold up others: if there are too many, newcomers
// replace those that have been silent for longest.
func TestSilentConnections(t *testing.T) {
	for _, n := range []int{maxConnections, maxConnections + 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newWorld(t)
			silent := make([]net.Conn, n)
			for i := range silent {
				silent[i] = w.dial()
			}
			if got := w.answer("{\"command\":\"health\"}\n"); got == "" {
				t.Error("no answer")
			}
			replaced := 0
			for _, conn := range silent {
				switch text, err := io.ReadAll(conn); {
				case err == nil && string(text) == "":
					replaced++
				case err != nil || string(text) != tooLate:
					t.Errorf("a silent one gets %q, %v", text, err)
				}
			}
			if replaced == 0 || replaced == n {
				t.Errorf("%d of %d were replaced", replaced, n)
			}
			w.idle()
		})
	}
}

func TestThousandConnections(t *testing.T) {
	w := newWorld(t)
	conns := make([]net.Conn, 1000)
	for i := range conns {
		conns[i] = w.dial()
		if _, err := io.WriteString(conns[i], "{\"command\":\"status\"}\n"); err != nil {
			t.Fatal(err)
		}
	}
	for i, conn := range conns {
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.HasPrefix(got, []byte(`{"version":"v1",`)) || bytes.Count(got, []byte("\n")) != 1 {
			t.Fatalf("connection %d is answered %q, %v", i, got, err)
		}
	}
	w.idle()
}

// Close waits for those who are being answered, but not for those who do nothing.
func TestCloseWhileClientsAreThere(t *testing.T) {
	w := newWorld(t)
	silent := w.dial()
	w.pool.set(func(s *supervisor.Stats) { // more than the kernel takes of one line
		s.Workers = make([]supervisor.WorkerStats, 20_000)
	})
	deaf := w.dial()
	if _, err := io.WriteString(deaf, "{\"command\":\"status\"}\n"); err != nil {
		t.Fatal(err)
	}
	waits := w.dial()
	if _, err := io.WriteString(waits, "{\"command\":\"reload\",\"wait\":true}\n"); err != nil {
		t.Fatal(err)
	}
	<-w.pool.asked
	testkit.Eventually(t, "all are served", func() (any, bool) { return w.server.listener.Taken(), w.server.listener.Taken() >= 3 })
	w.close()
	for what, conn := range map[string]net.Conn{"silent": silent, "waiting": waits, "deaf": deaf} {
		if _, err := io.Copy(io.Discard, conn); err != nil && !isReset(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Dial(os.Getpid()); err != noPool(os.Getpid()) {
		t.Errorf("after Close: %v", err)
	}
}

func isReset(err error) bool { return strings.Contains(err.Error(), syscall.ECONNRESET.Error()) }

// The result of a reload that ends at the very end still gets there.
func TestCloseWithAResult(t *testing.T) {
	w := newWorld(t)
	conn := w.dial()
	if _, err := io.WriteString(conn, "{\"command\":\"reload\",\"wait\":true}\n"); err != nil {
		t.Fatal(err)
	}
	<-w.pool.asked
	w.pool.results <- supervisor.ReloadResult{Outcome: supervisor.Interrupted, Reason: "the pool is stopping"}
	w.close()
	text, err := io.ReadAll(conn)
	if want := `{"accepted":true}` + "\n" + `{"reason":"the pool is stopping","outcome":"interrupted"}` + "\n"; string(text) != want || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

// A Server waits for less than the client that has to wait for it does. (Those of
// the other tests wait for less than that.)
func TestCloseWithoutServe(t *testing.T) {
	p := newFakePool()
	s, err := Listen(p.view(), p, p.refuse)
	if err != nil {
		t.Fatal(err)
	}
	if want := (times{request: 2 * time.Second, close: 200 * time.Millisecond, tick: 100 * time.Millisecond}); s.times != want || s.times.request >= AnswerTime {
		t.Errorf("its times are %v, want %v", s.times, want)
	}
	s.Close()
}

// Who waits for the end is let go neither by Close nor by the garbage collector,
// but by the end.
func TestStopWaitSurvivesClose(t *testing.T) {
	w := newWorld(t)
	conn := w.dial()
	if _, err := io.WriteString(conn, "{\"command\":\"stop\",\"wait\":true}\n"); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	if n, err := conn.Read(line); err != nil || string(line[:n]) != `{"accepted":true}`+"\n" {
		t.Fatalf("%q, %v", line[:n], err)
	}
	w.close()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var state error
	if err := raw.Control(func(fd uintptr) {
		_, _, state = unix.Recvfrom(int(fd), line, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	}); err != nil {
		t.Fatal(err)
	}
	if state != unix.EAGAIN {
		t.Errorf("after Close the connection is not open any more: %v", state)
	}
}

// Clients that go away while they wait leave nothing behind.
func TestClientsThatGoAway(t *testing.T) {
	w := newWorld(t)
	for _, command := range []string{"reload", "stop"} {
		for range 2 * maxConnections {
			conn := w.dial()
			if _, err := fmt.Fprintf(conn, `{"command":%q,"wait":true}`+"\n", command); err != nil {
				t.Fatal(err)
			}
			if command == "reload" {
				<-w.pool.asked
			}
			conn.Close()
		}
		w.idle()
	}
}

// Others who share the network namespace are told that they are not meant, and
// the pool says so.
func TestStrangersAreTurnedAway(t *testing.T) {
	for _, tt := range []struct {
		name string
		attr *syscall.SysProcAttr
		want string
	}{
		{"user", &syscall.SysProcAttr{Credential: nobody},
			fmt.Sprintf("uid 65534 is not the pool's, which is %d, nor root", os.Geteuid())},
		{"namespace", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}, "is in another PID namespace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			got := play(t, tt.attr, "client", name(t)).text()
			if !strings.HasPrefix(got, `{"error":"`) || !strings.Contains(got, tt.want) {
				t.Errorf("it is told %q, want %q", got, tt.want)
			}
			w.idle()
			if refused := w.pool.refusals(); len(refused) != 1 || !strings.Contains(refused[0].Error(), tt.want) {
				t.Errorf("refused: %v", refused)
			}
			if asked := w.pool.asks(); asked != "" {
				t.Errorf("the pool was asked: %s", asked)
			}
			if got := w.answer("{\"command\":\"health\"}\n"); got == "" {
				t.Error("no answer any more")
			}
		})
	}
}

func TestListenWhereSomebodyIs(t *testing.T) {
	squatter := play(t, nil, "squat", name(t))
	p := newFakePool()
	_, err := Listen(p.view(), p, p.refuse)
	wantError(t, err, "address already in use")
	squatter.stdin.Close()
}
