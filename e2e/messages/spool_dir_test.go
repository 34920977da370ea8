package messages

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// sendFrames sends the numbers from..to-1 over one connection.
func sendFrames(t testing.TB, socket string, from, to int) net.Conn {
	t.Helper()
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	var all []byte
	for i := from; i < to; i++ {
		body := strconv.Itoa(i)
		all = append(binary.BigEndian.AppendUint32(all, uint32(len(body))), body...)
	}
	if _, err := nc.Write(all); err != nil {
		t.Fatal(err)
	}
	return nc
}

// A stop with messages in hand and waiting, under a spool, and a restart:
// nothing is missing, and the client has been told.
func TestSpoolRestart(t *testing.T) {
	t.Parallel()
	notes, spool := notebook(t.TempDir()), filepath.Join(t.TempDir(), "spool")
	socket := filepath.Join(t.TempDir(), "sock")
	args := []string{"-n", "2", "--listen", "unix://" + socket + "?reply=always", "--spool", spool, "--stop-timeout", "4s",
		"--", noteDeed, string(notes)}
	notes.pause(t)
	p := harness.StartRun(t, harness.Program{}, args...)
	p.AwaitWorkers(2)
	nc := sendFrames(t, socket, 0, 300)
	p.Signal(syscall.SIGTERM)
	replies, err := io.ReadAll(nc)
	if n := strings.Count(string(replies), "spooled: "); n != 300 || err != nil {
		t.Errorf("%d of 300 are told that they are kept; %v", n, err)
	}
	expectStopped(p)
	if _, spooled, lost := p.Totals(); spooled != 300 || lost != 0 {
		t.Errorf("spooled %d, lost %d", spooled, lost)
	}

	notes.goOn()
	p = harness.StartRun(t, harness.Program{}, args...)
	notes.expectAll(t, 300)
	testkit.Eventually(t, "the spool is empty", func() (any, bool) {
		left, _ := filepath.Glob(filepath.Join(spool, "*d"))
		return left, len(left) == 0
	})
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// kill -9 of poolinit while it reads the spool: what was not handled is there.
func TestSpoolSurvivesKill(t *testing.T) {
	t.Parallel()
	notes, spool := notebook(t.TempDir()), t.TempDir()
	socket := filepath.Join(t.TempDir(), "sock")
	args := []string{"--listen", "unix://" + socket, "--spool", spool, "--stop-timeout", "4s", "--queue-messages", "2000", "--",
		noteDeed, string(notes)}
	notes.pause(t)
	p := harness.StartRun(t, harness.Program{}, args...)
	p.AwaitWorkers(1)
	sendFrames(t, socket, 0, 1000)
	p.Signal(syscall.SIGTERM)
	expectStopped(p)
	notes.goOn()
	for range 3 {
		p = harness.StartRun(t, harness.Program{}, args...)
		before := len(notes.handled())
		testkit.Eventually(t, "some are handled", func() (any, bool) { n := len(notes.handled()); return n, n > before || n == 1000 })
		p.Signal(syscall.SIGKILL)
		p.Wait()
	}
	harness.StartRun(t, harness.Program{}, args...)
	notes.expectAll(t, 1000)
}

// complainDeed takes a message, says on stderr what is wrong with it, and dies,
// in the middle of a line as crashing programs do.
var complainDeed = harness.Deed("complain", func([]string) int {
	var body []byte
	var err error
	if os.Getenv("POOLINIT_DELIVER") == "exec" {
		body, err = io.ReadAll(os.Stdin)
	} else {
		body, _, err = harness.ReadFrame(os.NewFile(3, "channel"))
	}
	if err != nil {
		return 0 // none came
	}
	fmt.Fprintf(os.Stderr, "bad message %q\ngiving up", body)
	return 3
})

// A given-up message's record says what its worker had to say, unless that went
// past poolinit.
func TestSpoolGivenUpStderr(t *testing.T) {
	for _, tt := range []struct {
		output, deliver string
		want            []string
	}{
		{"prefix", "frames", []string{`bad message "0"`, "giving up"}},
		{"json", "frames", []string{`bad message "0"`, "giving up"}},
		{"prefix", "exec", []string{`bad message "0"`, "giving up"}},
		{"inherit", "frames", nil},
	} {
		t.Run(tt.output+" "+tt.deliver, func(t *testing.T) {
			spool, socket := t.TempDir(), filepath.Join(t.TempDir(), "sock")
			p := harness.StartRun(t, harness.Program{}, "-n", "2", "--output", tt.output, "--deliver", tt.deliver, "--attempts", "1",
				"--listen", "unix://"+socket+"?reply=always", "--spool", spool, "--", complainDeed)
			p.ExpectLog("accepting messages", nil)
			_, failed, err := harness.ReadFrame(sendFrames(t, socket, 0, 1))
			if !failed || err != nil {
				t.Fatalf("failed: %v, %v", failed, err)
			}
			names, _ := filepath.Glob(filepath.Join(spool, "*.given-up"))
			if len(names) != 1 {
				t.Fatalf("given up: %q\n%s", names, p.Stderr.String())
			}
			file, err := os.ReadFile(names[0])
			if err != nil {
				t.Fatal(err)
			}
			line, _, _ := strings.Cut(string(file), "\n")
			var record struct{ Stderr []string }
			if err := json.Unmarshal([]byte(line), &record); err != nil || !slices.Equal(record.Stderr, tt.want) {
				t.Errorf("%s: stderr %q, want %q; %v", line, record.Stderr, tt.want, err)
			}
		})
	}
}

// A spool that cannot be used is a line and the exit code 2, before anything
// starts.
func TestSpoolUnusable(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "sock")
	taken := filepath.Join(dir, "taken")
	p := harness.StartRun(t, harness.Program{}, "--listen", "unix://"+socket+"1", "--spool", taken, "--", "obey")
	p.AwaitWorkers(1)
	for path, want := range map[string]string{
		file:          "not a directory",
		"/proc/spool": "no such file or directory",
		taken:         "another poolinit uses it",
		"/dev/full":   "not a directory",
	} {
		q := harness.StartRun(t, harness.Program{}, "--listen", "unix://"+socket, "--spool", path, "--", "obey")
		if code := q.Wait(); code != 2 {
			t.Errorf("%s: exit code %d, want 2", path, code)
		}
		got := q.Stderr.String()
		if !strings.Contains(got, fmt.Sprintf("cannot use the spool %s: ", path)) || !strings.Contains(got, want) || strings.Contains(q.Stdout.String(), "up worker") {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// expectStopped waits for the end of a pool whose workers had messages in hand:
// they die of the stop signal just before they would be killed, or of SIGKILL if
// the machine is too busy for that.
func expectStopped(p harness.Pool) {
	p.T.Helper()
	if code := p.Wait(); code != 0 && code != 137 {
		p.T.Errorf("exit code %d\n%s", code, p.Stderr.String())
	}
}
