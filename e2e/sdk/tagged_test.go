package sdk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/ipc/frame"
)

// A taggedKind is a way in which an SDK handles tagged messages.
type taggedKind struct {
	name        string
	s           scriptSDK
	env         string
	concurrency int
}

var phpSDK = scriptSDK{name: "php", needs: "php", file: "../../sdk/php/Pool.php", ext: ".php", fails: "now"}

var taggedKinds = []taggedKind{
	{"php", phpSDK, "MODE=sync", 1},
	{"python", pythonSDK, "MODE=sync", 1},
	{"python, threads", pythonSDK, "MODE=sync", 4},
	{"python, async, one at a time", pythonSDK, "MODE=async", 1},
	{"python, async", pythonSDK, "MODE=async", 4},
	{"node, one at a time", nodeSDK, "MODE=async", 1},
	{"node", nodeSDK, "MODE=async", 4},
}

func eachTaggedKind(t *testing.T, wanted func(k taggedKind) bool, test func(t *testing.T, k taggedKind)) {
	t.Parallel()
	for _, k := range taggedKinds {
		if !wanted(k) {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			harness.Need(t, k.s.needs)
			if k.s.ext == ".php" {
				needPHPModules(t, "pcntl", "posix")
			}
			test(t, k)
		})
	}
}

func all(taggedKind) bool          { return true }
func concurrent(k taggedKind) bool { return k.concurrency > 1 }

// A taggedEnd is a tagged worker without poolinit.
type taggedEnd struct {
	workerEnd
	in *bufio.Reader
}

func (k taggedKind) worker(t testing.TB, env ...string) taggedEnd {
	t.Helper()
	env = append(env, "POOLINIT_DELIVER=tagged", fmt.Sprint("POOLINIT_CONCURRENCY=", k.concurrency), k.env)
	w := k.s.workerOf(t, "tagged", env...)
	return taggedEnd{w, bufio.NewReader(w.Conn)}
}

func tagged(tag uint64, meta, body string) string {
	return string(frame.AppendTagged(nil, frame.Tagged{Tag: tag, Meta: []byte(meta), Body: []byte(body)}))
}

// drain tells the worker that no more messages come.
func (w taggedEnd) drain() {
	w.Process.T.Helper()
	w.write(string(frame.AppendControl(nil, frame.Control{Drain: true})))
}

// next reads an answer; a failure has a ! before it, and control a tag of 0.
func (w taggedEnd) next() (tag uint64, body string) {
	w.Process.T.Helper()
	f, err := frame.ReadTagged(w.in, 64<<20)
	if err != nil {
		w.Process.T.Fatalf("%v\n%s", err, w.Stderr.String())
	}
	if f.Failed {
		return f.Tag, "!" + string(f.Body)
	}
	return f.Tag, string(f.Body)
}

// answers reads this many answers.
func (w taggedEnd) answers(n int) map[uint64]string {
	w.Process.T.Helper()
	got := map[uint64]string{}
	for len(got) < n {
		tag, body := w.next()
		if _, again := got[tag]; again || tag == 0 {
			w.Process.T.Fatalf("answer %d %.100q, after %d others", tag, body, len(got))
		}
		got[tag] = body
	}
	return got
}

func (w taggedEnd) wantAnswers(want map[uint64]string) {
	w.Process.T.Helper()
	if got := w.answers(len(want)); !maps.Equal(got, want) {
		w.Process.T.Errorf("answers %.300s, want %.300s\n%s", fmt.Sprint(got), fmt.Sprint(want), w.Stderr.String())
	}
}

// wantEOF waits for the end of the worker's output; after no input it is a reset.
func (w taggedEnd) wantEOF() {
	w.Process.T.Helper()
	if got, err := io.ReadAll(w.in); len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		w.Process.T.Errorf("%q, %v", got, err)
	}
}

// What a handler may do, and what goes back. Each answer has its message's tag.
func TestSDKTaggedAnswers(t *testing.T) {
	type message struct{ body, want string }
	messages := []message{
		{"hello", "hello"}, {"", ""}, {"none", ""}, {"wrong", ""},
		{"refuse not mine", "!refused: not mine"},
		{"refuse " + strings.Repeat("ä", 3000), "!refused: " + strings.Repeat("ä", 2048)},
		{"retry 30", "!retry: 30s: not yet"}, {"retry 0.25", "!retry: 250ms: not yet"}, {"retry 0", "!retry: 0s: not yet"},
		{"retry-text 1m30s", "!retry: 1m30s: not yet"}, {"retry-text 1.5h", "!retry: 1.5h: not yet"},
		{"retry-text soon", "soon"}, {"retry-text -1s", "-1s"}, {"retry -1", "-1"}, {"retry 1e10", "seconds"},
		{"retry-text ", " no duration"},
		{"write more", "wrote more"},
		{strings.Repeat("long", 1<<20), strings.Repeat("long", 1<<20)},
	}
	odd := map[string][]message{
		".py":  {{"fail now", "!error: ValueError: now"}, {"odd", "!error: CancelledError: odd"}},
		".php": {{"fail now", "!error: now"}, {"odd", "!error: odd"}},
		".js": {{"fail now", "!error: RangeError: now"}, {"odd", "!error: undefined"}, {"odd-null", "!error: null"},
			{"odd-text", "!error: (something that has no text)"}, {"odd-then", "!error: Error: no then"}, {"twice", "twice"}},
	}
	partly := []string{"wrong", "retry-text soon", "retry-text -1s", "retry -1", "retry 1e10", "retry-text "} // the text differs
	eachTaggedKind(t, all, func(t *testing.T, k taggedKind) {
		w := k.worker(t)
		w.wantNotice("READY=1")
		sent := append(slices.Clone(messages), odd[k.s.ext]...)
		written := make(chan error)
		go func() { // ends when all is written, or the connection is closed
			var all strings.Builder
			for i, m := range sent {
				all.WriteString(tagged(uint64(i+1), "", m.body))
			}
			all.WriteString(tagged(frame.MaxTag, "{}", "last"))
			_, err := io.WriteString(w.Conn, all.String())
			written <- err
		}()
		got := w.answers(len(sent) + 1)
		if err := <-written; err != nil {
			t.Error(err)
		}
		for i, m := range sent {
			body := got[uint64(i+1)]
			switch {
			case slices.Contains(partly, m.body):
				if !strings.HasPrefix(body, "!error: ") || !strings.Contains(body, m.want) {
					t.Errorf("%.100q: answer %.200q", m.body, body)
				}
			case m.body == "write more" && k.s.ext == ".js" && k.concurrency > 1:
				if !strings.Contains(body, "concurrency above 1") {
					t.Errorf("%.100q: answer %.200q", m.body, body)
				}
			case body != m.want:
				t.Errorf("%.100q: answer %.200q, want %.200q", m.body, body, m.want)
			}
		}
		if got[frame.MaxTag] != "last" {
			t.Errorf("%q", got[frame.MaxTag])
		}
		w.drain()
		w.end()
		w.wantEnd(0, "now")
		w.wantEOF()
		w.wantNoNotice()
	})
}

// The meta, where it is known and where it is not; and touch.
func TestSDKTaggedMeta(t *testing.T) {
	eachTaggedKind(t, all, func(t *testing.T, k taggedKind) {
		w := k.worker(t)
		w.write(tagged(1, `{"id":"7","attempt":2,"source":"tcp://x","key":"k","time":"2026-01-02T03:04:05.123Z",`+
			`"deadline":"2026-01-02T05:34:15.5+02:30","headers":{"a":"b"},"new":[1]}`, "meta"))
		w.wantAnswers(map[uint64]string{1: "7|2|tcp://x|k|1767323045.123|1767323055.500|b"})
		for _, meta := range []string{"", "{}"} {
			w.write(tagged(2, meta, "meta"))
			if got := w.answers(1)[2]; got != "|0|||None|None|" {
				t.Errorf("meta %q: %q", meta, got)
			}
		}
		w.write(tagged(3, "no JSON", "meta") + tagged(4, "", "fine"))
		if got := w.answers(2); !strings.HasPrefix(got[3], "!error: ") || got[4] != "fine" {
			t.Error(got)
		}
		w.write(tagged(1<<40+5, "", "touch"))
		if tag, body := w.next(); tag != 0 || body != `{"touch":1099511627781}` {
			t.Errorf("%d %q", tag, body)
		}
		w.wantAnswers(map[uint64]string{1<<40 + 5: "true"})
		w.write(tagged(6, "", "touch-pool"))
		if k.s.ext == ".js" && k.concurrency > 1 {
			if got := w.answers(1)[6]; !strings.Contains(got, "concurrency above 1") {
				t.Error(got)
			}
		} else {
			if tag, body := w.next(); tag != 0 || body != `{"touch":6}` {
				t.Errorf("%d %q", tag, body)
			}
			w.wantAnswers(map[uint64]string{6: "true"})
		}
		if k.s.ext == ".php" { // one message after the other: the SDK knows that the message is over
			w.write(tagged(7, "", "keep") + tagged(8, "", "touch-kept"))
			w.wantAnswers(map[uint64]string{7: "keep", 8: "false"})
		}
		w.end()
		w.wantEnd(0, "")
	})
}

// Frames come in any pieces, and among them control that is not known.
func TestSDKTaggedPieces(t *testing.T) {
	eachTaggedKind(t, all, func(t *testing.T, k taggedKind) {
		w := k.worker(t)
		whole := tagged(1, "", "one") + tagged(0, "", "no JSON") + tagged(0, "{}", `{"news":{}}`) + tagged(0, "", "[]") +
			tagged(0, "", "") + tagged(2, `{"id":"x"}`, "") + tagged(3, "{}", "three")
		for i := range len(whole) {
			w.write(whole[i : i+1])
		}
		w.wantAnswers(map[uint64]string{1: "one", 2: "", 3: "three"})
		w.end()
		w.wantEnd(0, "")
	})
}

// What is no tagged frame, and an end in the middle of one, end the worker.
func TestSDKTaggedBroken(t *testing.T) {
	eachTaggedKind(t, all, func(t *testing.T, k taggedKind) {
		for name, bytes := range map[string]string{
			"too short":          "\x00\x00\x00\x03abc",
			"too short for meta": "\x40\x00\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x01{}",
			"meta too long":      "\x40\x00\x00\x0e\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x03{}",
		} {
			w := k.worker(t)
			w.write(tagged(1, "", "whole"))
			w.wantAnswers(map[uint64]string{1: "whole"})
			w.write(bytes)
			w.end()
			if code := w.Wait(); code != 1 || !strings.Contains(w.Stderr.String(), "tagged frame") {
				t.Errorf("%s: exit code %d\n%s", name, code, w.Stderr.String())
			}
		}
		w := k.worker(t)
		w.write(tagged(1, "", "whole")[:14])
		w.end()
		if code := w.Wait(); code != 1 || !strings.Contains(w.Stderr.String(), "in the middle of") {
			t.Errorf("exit code %d\n%s", code, w.Stderr.String())
		}
	})
}

// Nobody is there any more to answer to.
func TestSDKTaggedGone(t *testing.T) {
	eachTaggedKind(t, all, func(t *testing.T, k taggedKind) {
		w := k.worker(t)
		file := filepath.Join(t.TempDir(), "go-on")
		w.write(tagged(1, "", "wait "+file))
		w.Stdout.Expect(t, "waiting")
		w.Conn.Close()
		touch(t, file)
		if code := w.Wait(); code != 1 || !strings.Contains(w.Stderr.String(), "channel") {
			t.Errorf("exit code %d\n%s", code, w.Stderr.String())
		}
	})
}

// Messages are handled at the same time, up to the number that the worker was told.
// Their answers go in any order; one that never comes keeps no other.
func TestSDKTaggedConcurrency(t *testing.T) {
	eachTaggedKind(t, concurrent, func(t *testing.T, k taggedKind) {
		w := k.worker(t)
		dir := t.TempDir()
		file := func(i int) string { return filepath.Join(dir, fmt.Sprint("go-on-", i)) }
		w.write(tagged(9, "", "concurrency"))
		w.wantAnswers(map[uint64]string{9: "4"})
		w.write(tagged(100, "", "never"))
		for i := range 5 { // two more than it may have in hand
			w.write(tagged(uint64(i+1), "", "wait "+file(i)))
		}
		w.Stdout.ExpectTimes(t, "waiting\n", 4)
		touch(t, file(2))
		w.wantAnswers(map[uint64]string{3: "wait " + file(2)})
		w.Stdout.ExpectTimes(t, "waiting\n", 5)
		touch(t, file(0))
		w.wantAnswers(map[uint64]string{1: "wait " + file(0)})
		w.Stdout.ExpectTimes(t, "waiting\n", 6)
		touch(t, file(4))
		w.wantAnswers(map[uint64]string{5: "wait " + file(4)})
		w.drain() // what it has is answered all the same
		touch(t, file(1))
		touch(t, file(3))
		w.wantAnswers(map[uint64]string{2: "wait " + file(1), 4: "wait " + file(3)})
		w.end()               // it waits for the one that never comes, until it is killed
		if k.s.ext == ".js" { // Node sees that nothing can settle the promise any more
			w.wantEnd(0, "")
			w.wantEOF()
			return
		}
		if err := w.Conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if tag, body := first(w); !strings.Contains(body, "timeout") {
			t.Errorf("answer %d %q", tag, body)
		}
		w.Signal(syscall.SIGKILL)
		w.Wait()
	})
}

// With one message in hand others wait for it.
func TestSDKTaggedOneAtATime(t *testing.T) {
	eachTaggedKind(t, func(k taggedKind) bool { return !concurrent(k) }, func(t *testing.T, k taggedKind) {
		w := k.worker(t)
		file := filepath.Join(t.TempDir(), "go-on")
		w.write(tagged(1, "", "quick") + tagged(2, "", "wait "+file) + tagged(3, "", "next"))
		w.wantAnswers(map[uint64]string{1: "quick"})
		w.Stdout.Expect(t, "waiting")
		w.drain()
		touch(t, file)
		for _, want := range []string{"2 wait " + file, "3 next"} {
			if tag, body := w.next(); fmt.Sprint(tag, " ", body) != want {
				t.Errorf("answer %d %q, want %q", tag, body, want)
			}
		}
		w.end()
		w.wantEnd(0, "")
	})
}

// SIGTERM that is not poolinit's, and stop(): the worker asks for no more, answers
// what it has and gets, and ends. After a drain there is nothing to ask for.
func TestSDKTaggedStop(t *testing.T) {
	eachTaggedKind(t, all, func(t *testing.T, k taggedKind) {
		for _, how := range []string{"SIGTERM", "stop"} {
			w := k.worker(t)
			w.wantNotice("READY=1")
			if how == "stop" {
				w.write(tagged(1, "", "stop"))
			} else {
				w.write(tagged(1, "", "before"))
				w.Signal(syscall.SIGTERM)
			}
			w.answers(1)
			w.wantNotice("STOPPING=1")
			w.write(tagged(2, "", "after"))
			w.wantAnswers(map[uint64]string{2: "after"})
			w.drain()
			w.end()
			w.wantEnd(0, "")
			w.wantEOF()

			w = k.worker(t)
			w.wantNotice("READY=1")
			file := filepath.Join(t.TempDir(), "go-on")
			w.write(tagged(3, "", "wait "+file))
			w.Stdout.Expect(t, "waiting")
			w.drain()
			if how == "stop" {
				w.write(tagged(4, "", "stop"))
			}
			touch(t, file)
			if how == "stop" {
				w.wantAnswers(map[uint64]string{3: "wait " + file, 4: "stop"})
			} else {
				w.wantAnswers(map[uint64]string{3: "wait " + file})
				w.Signal(syscall.SIGTERM)
			}
			w.end()
			w.wantEnd(0, "")
			if how == "stop" { // of a signal it may hear before it has read the drain
				w.wantNoNotice()
			}
		}
	})
}

// A handler that ends the process: answers from before go out, and worker_stop runs.
func TestSDKTaggedExit(t *testing.T) {
	eachTaggedKind(t, all, func(t *testing.T, k taggedKind) {
		w := k.worker(t)
		if k.concurrency > 1 {
			w.write(tagged(9, "", "never"))
			w.Stdout.Expect(t, "waiting")
		}
		w.write(tagged(1, "", "quick"))
		w.wantAnswers(map[uint64]string{1: "quick"})
		w.write(tagged(2, "", "exit 3") + tagged(3, "", "after"))
		if tag, body := first(w); tag != 0 && tag != 3 {
			t.Errorf("answer %d %q", tag, body)
		}
		w.wantEnd(3, "")
		if k.s.ext == ".py" && w.Stderr.String() != "" {
			t.Error(w.Stderr.String())
		}
	})
}

// first reads an answer, or the end, which is tag 0.
func first(w taggedEnd) (tag uint64, body string) {
	f, err := frame.ReadTagged(w.in, 1<<20)
	if err != nil {
		return 0, err.Error()
	}
	return f.Tag, string(f.Body)
}

// detach() answers its message, and no other.
func TestSDKTaggedDetach(t *testing.T) {
	eachTaggedKind(t, all, func(t *testing.T, k taggedKind) {
		w := k.worker(t)
		w.write(tagged(1, "", "detach"))
		if k.concurrency > 1 {
			if got := w.answers(1)[1]; !strings.HasPrefix(got, "!error: ") || !strings.Contains(got, "concurrency") {
				t.Error(got)
			}
			w.end()
			w.wantEnd(0, "")
			return
		}
		w.wantAnswers(map[uint64]string{1: "detached"})
		w.wantEOF()
		w.wantEnd(0, "")
	})
}

// What goes wrong in the background: Python says so and goes on, Node ends.
func TestSDKTaggedBackground(t *testing.T) {
	eachTaggedKind(t, all, func(t *testing.T, k taggedKind) {
		switch {
		case k.s.ext == ".js":
			w := k.worker(t)
			w.write(tagged(1, "", "quick"))
			w.wantAnswers(map[uint64]string{1: "quick"})
			w.write(tagged(2, "", "unhandled"))
			if code := w.Wait(); code != 1 || !strings.Contains(w.Stderr.String(), "nobody cares") {
				t.Errorf("exit code %d\n%s", code, w.Stderr.String())
			}
		case k.env == "MODE=async":
			w := k.worker(t)
			w.write(tagged(1, "", "background"))
			w.wantAnswers(map[uint64]string{1: "background"})
			testkit.Eventually(t, "it is told", func() (any, bool) {
				w.write(tagged(2, "", "go on"))
				w.wantAnswers(map[uint64]string{2: "go on"})
				return w.Stderr.String(), strings.Contains(w.Stderr.String(), "in the background")
			})
			w.end()
			w.wantEnd(0, "")
		}
	})
}

// A child that is a copy of the worker does not answer for it, nor touch its event
// loop.
func TestSDKTaggedFork(t *testing.T) {
	python := func(k taggedKind) bool { return k.s.ext == ".py" }
	eachTaggedKind(t, python, func(t *testing.T, k taggedKind) {
		w := k.worker(t)
		for range 3 {
			w.write(tagged(1, "", "fork"))
			w.wantAnswers(map[uint64]string{1: "0"})
			w.write(tagged(2, "", "next"))
			w.wantAnswers(map[uint64]string{2: "next"})
		}
		w.end()
		w.wantEnd(0, "")
	})
}

// A loop that turns is alive, and threads of which one has something to do; one that
// hangs says nothing.
func TestSDKTaggedWatchdog(t *testing.T) {
	python := func(k taggedKind) bool { return k.s.ext == ".py" && k.concurrency > 1 }
	eachTaggedKind(t, python, func(t *testing.T, k taggedKind) {
		w := k.worker(t, "WATCHDOG_USEC=40000")
		for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
			w.wantNotice(want)
		}
		if k.env == "MODE=async" {
			w.write(tagged(1, "", "never")) // others are served meanwhile
			w.Stdout.Expect(t, "waiting")
			w.wantNotice("WATCHDOG=1")
			w.wantNotice("WATCHDOG=1")
		}
		w.Signal(syscall.SIGKILL)
		w.Wait()
	})
}
