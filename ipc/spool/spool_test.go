package spool

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
	"github.com/poolinit/poolinit/ipc/sources"
	"github.com/poolinit/poolinit/ratelog"
)

// A world has a spool that is replayed at its start, and a source on loopback.
type world struct {
	*ipctest.World
	src    ipc.Source
	spool  *Spool
	replay *Replay
	served chan struct{}
	over   bool
}

// newWorld returns a world that has not begun to replay.
func newWorld(t testing.TB, dir string, change func(*ipc.Config)) *world {
	t.Helper()
	return newPrintingWorld(t, dir, nil, change)
}

// newPrintingWorld is newWorld with workers that have printed something.
func newPrintingWorld(t testing.TB, dir string, stderr func(worker int) string, change func(*ipc.Config)) *world {
	t.Helper()
	var log ipctest.Log
	spool, err := Open(Config{Dir: dir, Stderr: stderr}, log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{spool: spool, served: make(chan struct{})}
	w.World = ipctest.NewWorld(t, func(c *ipc.Config) {
		c.Spool, c.GivenUp = spool.Keep, spool.GiveUp
		if change != nil {
			change(c)
		}
	})
	u, err := sources.Parse("tcp://127.0.0.1:0?reply=always")
	if err != nil {
		t.Fatal(err)
	}
	w.src = w.Serve(u.Open)
	_, _ = w.Log.Write([]byte(log.Text()))
	w.spool.log = w.Log.Logger()
	w.spool.writer.complain = ratelog.New(w.spool.log)
	w.spool.unread = ratelog.Several(w.spool.log, zerolog.WarnLevel, mostFiles)
	w.replay = spool.Replay(w.Q)
	t.Cleanup(w.stop)
	return w
}

func (w *world) dial() *ipctest.Client {
	w.T.Helper()
	return ipctest.Dial(w.T, "tcp", strings.TrimPrefix(w.src.Stats().Name, "tcp://"))
}

func (w *world) serve() {
	w.Ended.Go(func() {
		w.replay.Serve()
		close(w.served)
	})
}

// stop is the end: what waits, and what the workers have, is kept.
func (w *world) stop() {
	if w.over {
		return
	}
	w.over = true
	w.replay.Drain(context.Background())
	w.Q.Close()
	w.CloseChannels("time is up")
	w.spool.Flush(time.Now().Add(ipctest.Patience))
	w.replay.Close()
	w.spool.Close()
}

// files returns the names in the spool that end so.
func files(t testing.TB, dir, kind string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), kind) {
			names = append(names, e.Name())
		}
	}
	return names
}

// read returns what is in the files of a kind, oldest first.
func read(t testing.TB, dir, kind string) (headers []header, bodies []string) {
	t.Helper()
	for _, name := range files(t, dir, kind) {
		file, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		h, b, err := readMessage(bytes.NewReader(file), maxBody)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		headers, bodies = append(headers, h), append(bodies, string(b))
	}
	return headers, bodies
}

// After a stop with a spool and a restart nothing is missing, and the order is
// the old one: first what the worker had, then what waited, then what is new.
func TestKeepsAndReplays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	w := newWorld(t, dir, func(c *ipc.Config) { c.Window = 2 })
	w.serve()
	<-w.served
	w.Worker(ipctest.Silent)
	c := w.dial()
	var want []string
	for i := range 100 {
		want = append(want, strconv.Itoa(i))
	}
	c.Send(want...)
	ipctest.Eventually(t, "all are there", func() bool { n, _, flying := w.Q.Depth(); return n == 98 && flying == 2 })
	w.stop()
	for range want {
		if got := c.Next(); !strings.HasPrefix(got, "!spooled: ") {
			t.Fatalf("answered %q", got)
		}
	}
	headers, bodies := read(t, dir, undelivered)
	if fmt.Sprint(bodies) != fmt.Sprint(want) {
		t.Fatalf("in the spool: %q", bodies)
	}
	for i, h := range headers {
		charged := 0
		if i == 0 {
			charged = 1 // the first of the worker's window
		}
		if h.Source != w.src.Stats().Name || h.Attempts != charged || h.ID != uint64(i+1) || h.Reason != "" {
			t.Errorf("header %+v", h)
		}
	}

	w = newWorld(t, dir, nil)
	w.serve()
	<-w.served
	w.dial().Send("new")
	ipctest.Eventually(t, "all are there", func() bool { n, _, _ := w.Q.Depth(); return n == 101 })
	var got ipctest.Collector
	w.Worker(ipctest.Answering(got.Add))
	got.Expect(t, append([]string{want[0], "new"}, want[1:]...)...) // the old ones are one flow, and the new one has its turn
	stats := w.replay.Stats()
	ipctest.Eventually(t, "the spool is empty", func() bool { return len(files(t, dir, "d")) == 0 && stats.Handled.Load() == 100 })
	if stats.Received.Load() != 100 || stats.Name != "spool://"+dir {
		t.Errorf("%s has received %d", stats.Name, stats.Received.Load())
	}
}

// Never more is in memory than the queue allows. What is not handled stays,
// under its name, with its attempts.
func TestStops(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		put(t, dir, i, 0, strconv.Itoa(i))
	}
	before := files(t, dir, undelivered)
	w := newWorld(t, dir, func(c *ipc.Config) { c.QueueMessages, c.Window = 3, 1 })
	w.serve()
	w.Worker(ipctest.Silent)
	ipctest.Eventually(t, "the queue is full", func() bool { n, _, flying := w.Q.Depth(); return n == 3 && flying == 1 })
	w.stop()
	if got := files(t, dir, undelivered); !slices.Equal(got, before) {
		t.Errorf("left: %q", got)
	}
	if headers, _ := read(t, dir, undelivered); headers[0].Attempts != 1 || headers[1].Attempts != 0 {
		t.Errorf("attempts: %d, %d; want 1, 0", headers[0].Attempts, headers[1].Attempts)
	}
	if s := w.replay.Stats(); s.Spooled.Load() != 4 || s.Lost.Load() != 0 {
		t.Errorf("spooled %d, lost %d", s.Spooled.Load(), s.Lost.Load())
	}
}

// put writes a file as a spool does.
func put(t testing.TB, dir string, id, attempts int, body string) (name string) {
	t.Helper()
	h := header{Source: "tcp://old", ID: uint64(id), Attempts: attempts, Arrived: time.Unix(1e9, 0)}
	name = fmt.Sprintf("%s-%010d%s", h.Arrived.UTC().Format(nameTime), id, undelivered)
	if err := os.WriteFile(filepath.Join(dir, name), appendFile(nil, h, []byte(body)), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// failing answers each message with a failure.
func failing(code frame.Code) func([]byte) []byte {
	return func([]byte) []byte { return frame.AppendFailure(nil, code, "no") }
}

func TestGivenUp(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, 1, 2, "old")
	w := newWorld(t, dir, nil)
	w.serve()
	<-w.served
	w.Worker(ipctest.Answering(failing("oops")))
	c := w.dial()
	c.Send("new")
	c.Want("!given-up: after 3 attempts: oops: no")
	ipctest.Eventually(t, "both are given up", func() bool { return len(files(t, dir, undelivered)) == 0 && len(files(t, dir, givenUp)) == 2 })
	headers, bodies := read(t, dir, givenUp)
	if fmt.Sprint(bodies) != "[old new]" {
		t.Errorf("given up: %q", bodies)
	}
	for i, source := range []string{"tcp://old", w.src.Stats().Name} {
		if h := headers[i]; h.Source != source || h.Attempts != 3 || h.Reason != "after 3 attempts: oops: no" || h.Kept.IsZero() {
			t.Errorf("header %+v", h)
		}
	}
	w.stop()
	if w = newWorld(t, dir, nil); len(w.spool.found) > 0 || w.Log.Text() != "" {
		t.Errorf("given-up messages are looked at: %q %s", w.spool.found, w.Log.Text())
	}
}

// The record has what the worker printed that had the message last. No worker is
// asked about a message that none had.
func TestGivenUpStderr(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, 1, 3, "not delivered")
	put(t, dir, 2, 2, "old")
	put(t, dir, 3, 2, "silent")
	printed := []string{"one\n\n\"two\" \xff\nthree", ""} // by each worker
	w := newPrintingWorld(t, dir, func(worker int) string { return printed[worker] }, func(c *ipc.Config) { c.Window = 1 })
	w.serve()
	<-w.served
	w.Worker(func(sock net.Conn) { ipctest.ReadFrame(sock) })
	ipctest.Eventually(t, "two are given up", func() bool { return len(files(t, dir, givenUp)) == 2 })
	w.Worker(ipctest.Answering(failing("oops")))
	ipctest.Eventually(t, "all are given up", func() bool { return len(files(t, dir, givenUp)) == 3 })
	headers, _ := read(t, dir, givenUp)
	for i, want := range [][]string{nil, {"one", "", `"two" ` + "\ufffd", "three"}, nil} {
		if got := headers[i].Stderr; !slices.Equal(got, want) {
			t.Errorf("message %d: stderr %q, want %q", i+1, got, want)
		}
	}
}

// The sender of an old message does not hear what becomes of it: a final failure puts it
// to the given-up ones.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, 1, 0, "old")
	put(t, dir, 2, 0, "two\nlines")
	w := newWorld(t, dir, func(c *ipc.Config) { c.Format = ipc.Lines })
	w.serve()
	w.Worker(func(sock net.Conn) {
		sock.Read(make([]byte, 10))
		sock.Write([]byte("\n"))
	})
	ipctest.Eventually(t, "one is handled, one is moved", func() bool { return len(files(t, dir, undelivered)) == 0 })
	if headers, bodies := read(t, dir, givenUp); len(bodies) != 1 || bodies[0] != "two\nlines" || !strings.HasPrefix(headers[0].Reason, "not-a-line: ") {
		t.Errorf("%q %+v", bodies, headers)
	}
}

// With fewer --attempts than before, messages that have had as many are not
// delivered.
func TestFewerAttempts(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, 1, 1, "had one")
	put(t, dir, 2, 0, "had none")
	w := newWorld(t, dir, func(c *ipc.Config) { c.Attempts = 1 })
	w.serve()
	var c ipctest.Collector
	w.Worker(ipctest.Answering(c.Add))
	c.Expect(t, "had none")
	ipctest.Eventually(t, "none is left", func() bool { return len(files(t, dir, undelivered)) == 0 })
	if _, bodies := read(t, dir, givenUp); fmt.Sprint(bodies) != "[had one]" {
		t.Errorf("given up: %q", bodies)
	}
}

func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	whole := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		return string(text)
	}
	left := []string{write("README", "foreign"), write("20240101.undelivered", "foreign"), write("other.tmp", "foreign")}
	if err := unix.Mkfifo(filepath.Join(dir, "20260101T000000.000000000Z-0000000001.undelivered"), 0o600); err != nil {
		t.Fatal(err)
	}
	left = append(left, "20260101T000000.000000000Z-0000000001.undelivered")
	for i, change := range []func(string) string{
		func(s string) string { return "" },
		func(s string) string { return s[:10] },
		func(s string) string { return s[:len(s)-1] },
		func(s string) string { return s + "x" },
		func(s string) string { return strings.Replace(s, "body", "bodY", 1) },
		func(s string) string { return strings.Replace(s, `"size":4`, `"size":1000000`, 1) },
		func(s string) string { return strings.Replace(s, `"size":4`, `"size":-4`, 1) },
		func(s string) string { return strings.Replace(s, `"poolinit":1`, `"poolinit":2`, 1) },
		func(s string) string { return strings.Repeat("x", 2*maxHeader) },
	} {
		name := put(t, dir, i+1, 0, "body")
		left = append(left, write(name, change(whole(name))))
	}
	put(t, dir, 100, 0, "good")
	broken := put(t, dir, 101, 0, "cut off")
	write(broken+unfinished, whole(broken)[:50])
	rescued := put(t, dir, 102, 0, "whole")
	os.Rename(filepath.Join(dir, rescued), filepath.Join(dir, rescued+unfinished))
	os.Mkdir(filepath.Join(dir, "lost+found"), 0o700)

	w := newWorld(t, dir, nil)
	w.serve()
	var c ipctest.Collector
	w.Worker(ipctest.Answering(c.Add))
	c.Expect(t, "good", "cut off", "whole")
	ipctest.Eventually(t, "all are handled", func() bool { return len(files(t, dir, undelivered)) == len(left)-2 }) // all of those but two are called so
	w.stop()
	for _, name := range left {
		if n := strings.Count(w.Log.Text(), strconv.Quote(name)); n != 1 {
			t.Errorf("%s: %d lines in the log, want 1", name, n)
		}
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Errorf("not left alone: %v", err)
		}
	}
	if n := strings.Count(w.Log.Text(), "leaving it in place"); n != len(left) {
		t.Errorf("%d warnings, want %d: %s", n, len(left), w.Log.Text())
	}
	if n := len(files(t, dir, "")); n != len(left)+2 {
		t.Errorf("left: %q", files(t, dir, ""))
	}
}

func TestCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := Open(Config{Dir: filepath.Join(dir, "taken")}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "taken"):  "another poolinit uses it",
		file:                         "not a directory",
		"/proc/self/spool":           "no such file or directory",
		filepath.Join(file, "below"): "not a directory",
	} {
		s, err := Open(Config{Dir: path}, zerolog.Nop())
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.HasPrefix(err.Error(), "cannot use the spool "+path+": ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	first.Close()
	if s, err := Open(Config{Dir: filepath.Join(dir, "taken")}, zerolog.Nop()); err != nil {
		t.Errorf("after its end: %v", err)
	} else {
		s.Close()
	}
}

func TestReadOnly(t *testing.T) {
	if _, err := Open(Config{Dir: ipctest.SmallDisk(t, unix.MS_RDONLY)}, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "read-only file system") {
		t.Error(err)
	}
}

// A disk that is full: what does not fit is lost and counted, and nothing else
// happens. It is a warning at the next start, for what fills it is delivered then.
func TestFull(t *testing.T) {
	dir := ipctest.SmallDisk(t, 0)
	w := newWorld(t, dir, nil)
	c := w.dial()
	body := strings.Repeat("x", 10_000)
	c.Send(slices.Repeat([]string{body}, 10)...)
	ipctest.Eventually(t, "all are there", func() bool { n, _, _ := w.Q.Depth(); return n == 10 })
	w.stop()
	answers := map[string]int{}
	for range 10 {
		code, _, _ := strings.Cut(c.Next(), ":")
		answers[code]++
	}
	kept := len(files(t, dir, undelivered))
	stats := w.src.Stats()
	if kept < 1 || kept > 5 || answers["!spooled"] != kept || answers["!stopping"] != 10-kept ||
		int(stats.Spooled.Load()) != kept || int(stats.Lost.Load()) != 10-kept {
		t.Errorf("kept %d, answers %v, spooled %d, lost %d", kept, answers, stats.Spooled.Load(), stats.Lost.Load())
	}
	if n := strings.Count(w.Log.Text(), "cannot write to the spool"); n != 1 || !strings.Contains(w.Log.Text(), "no space left on device") {
		t.Errorf("%d lines in the log, want 1: %s", n, w.Log.Text())
	}
	if len(files(t, dir, unfinished)) > 0 {
		t.Error("half a file is left")
	}

	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for n := 4096; n > 0; n /= 2 { // to the last byte
		for err = nil; err == nil; _, err = filler.Write(make([]byte, n)) {
		}
	}
	filler.Close()
	w = newWorld(t, dir, nil)
	if !strings.Contains(w.Log.Text(), "no room for messages in the spool") {
		t.Errorf("no warning: %s", w.Log.Text())
	}
	w.serve()
	w.Worker(ipctest.Answering(func([]byte) []byte { return frame.Append(nil, nil) }))
	ipctest.Eventually(t, "what fills it is delivered", func() bool { return len(files(t, dir, undelivered)) == 0 })
}

// An old message that can be neither delivered nor moved stays.
func TestFullGivenUp(t *testing.T) {
	dir := ipctest.SmallDisk(t, 0)
	put(t, dir, 1, 2, strings.Repeat("x", 40_000))
	w := newWorld(t, dir, nil)
	w.serve()
	w.Worker(ipctest.Answering(failing("oops")))
	c := w.dial()
	c.Send(strings.Repeat("y", 40_000))
	c.Want("!given-up: after 3 attempts: oops: no")
	ipctest.Eventually(t, "both are settled", func() bool { return w.replay.Stats().Failed.Load() == 1 })
	if len(files(t, dir, undelivered)) != 1 || len(files(t, dir, givenUp)) != 0 {
		t.Errorf("left: %q", files(t, dir, ""))
	}
	if w.src.Stats().Lost.Load() != 1 || w.replay.Stats().Lost.Load() != 0 {
		t.Errorf("lost %d new and %d old; want 1 and 0", w.src.Stats().Lost.Load(), w.replay.Stats().Lost.Load())
	}
}

// A clock that was set back makes no file take another's place.
func TestNameTaken(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 3 {
		if err := s.writer.write(&task{kind: undelivered, header: header{ID: math.MaxUint64, Arrived: time.Unix(1e9, 0)}, body: []byte("x")}); err != nil {
			t.Error(err)
		}
	}
	if names := files(t, dir, undelivered); len(names) != 3 || !isMessage(names[0]) || !isMessage(names[2]) {
		t.Errorf("%q", names)
	}
}

func FuzzFile(f *testing.F) {
	h := header{Source: "tcp://127.0.0.1:8089", ID: 7, Attempts: 2, Arrived: time.Unix(1e9, 5), Reason: "no", Stderr: []string{"a"}}
	f.Add(appendFile(nil, h, []byte("hello\n")))
	f.Add(appendFile(nil, header{}, nil))
	f.Add([]byte(`{"poolinit":1,"size":5}` + "\nhello"))
	f.Add([]byte(`{"poolinit":1,"size":9000000000000000000}` + "\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		h, body, err := readMessage(bytes.NewReader(file), 1<<16)
		if err != nil {
			return
		}
		_, end, _ := bytes.Cut(file, []byte("\n"))
		if !bytes.Equal(end, body) || len(body) != h.Size {
			t.Fatalf("body %q of %q", body, file)
		}
		again, body2, err := readMessage(bytes.NewReader(appendFile(nil, h, body)), 1<<16)
		if err != nil || !bytes.Equal(body, body2) || fmt.Sprint(again) != fmt.Sprint(h) {
			t.Fatalf("%v: %+v became %+v", err, h, again)
		}
	})
}

// What a stop costs that has to keep 1,000 messages.
func BenchmarkKeep(b *testing.B) {
	for b.Loop() {
		s, err := Open(Config{Dir: b.TempDir()}, zerolog.Nop())
		if err != nil {
			b.Fatal(err)
		}
		cfg := ipctest.Config(nil)
		cfg.Spool = s.Keep
		q := ipc.NewQueue(cfg, zerolog.Nop())
		var stats ipc.SourceStats
		flow := ipc.NewFlow(&ipc.Lane{Source: &stats})
		for range 1000 {
			q.Submit([]*ipc.Delivery{ipc.NewDelivery(new(discard), &flow, make([]byte, 100))})
		}
		q.Close()
		s.Flush(time.Now().Add(time.Minute))
		s.Close()
		if stats.Spooled.Load() != 1000 {
			b.Fatal("not all are kept")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(1000*b.N), "us/message")
}

// A discard is an origin that does not care.
type discard struct{}

func (*discard) Settled(d *ipc.Delivery, _ []byte) { d.Release() }
func (*discard) Flush()                            {}
