package sdk

import (
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/ipc/frame"
)

// A reply too many is not the answer to a message that is sent after it has come.
func TestSDKClientSurplus(t *testing.T) {
	t.Parallel()
	surplus := func(t *testing.T, client func(url string) *exec.Cmd) {
		late, sent := make(chan struct{}), make(chan struct{})
		ends := func(c scriptClient) { _, _ = io.Copy(io.Discard, c) } // the client closes, perhaps with bytes unread
		url := serve(t,
			both(takes("one", frames("1")+frames("too many")), ends),
			both(takes("two", frames("2")), func(c scriptClient) {
				defer close(sent)
				<-late
				_, _ = io.WriteString(c, frames("later")) // the client may have noticed
			}, ends),
			takes("three", frames("3")),
		)
		cmd := client(url)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out testkit.Output
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		_, _ = io.WriteString(stdin, "one\ntwo\n")
		out.Expect(t, "2\n")
		close(late)
		<-sent
		_, _ = io.WriteString(stdin, "three\n")
		out.Expect(t, "3\n")
		stdin.Close()
		if err := cmd.Wait(); err != nil || out.String() != "1\n2\n3\n" {
			t.Errorf("%v: %q", err, out.String())
		}
	}
	for _, s := range []scriptSDK{pythonSDK, asyncioSDK, nodeSDK} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			harness.Need(t, s.needs)
			surplus(t, func(url string) *exec.Cmd { return s.clientOf(t, url, "TIMEOUT=10") })
		})
	}
	t.Run("php", func(t *testing.T) {
		t.Parallel()
		surplus(t, func(url string) *exec.Cmd { return phpClientOf(t, url, "TIMEOUT=10") })
	})
}

// taggedSays writes tagged frames.
func taggedSays(list ...frame.Tagged) oneConn {
	return func(c scriptClient) {
		var b []byte
		for _, f := range list {
			b = frame.AppendTagged(b, f)
		}
		_, _ = c.Write(b) // the client notices
	}
}

var hello = frame.Tagged{Body: []byte(`{"hello":1}`)}

// taggedHears reads this many frames, the hello among them. It keeps the messages'
// tags by body.
func taggedHears(n int, tags map[string]uint64) oneConn {
	return func(c scriptClient) {
		for range n {
			f, err := frame.ReadTagged(c, 1<<20)
			if err != nil {
				c.t.Error(err)
				return
			}
			if f.Tag == 0 && string(f.Body) != `{"hello":1}` || f.Failed || f.Meta != nil {
				c.t.Errorf("%+v", f)
			}
			if _, again := tags[string(f.Body)]; again {
				c.t.Errorf("%q came twice", f.Body)
			}
			tags[string(f.Body)] = f.Tag
		}
	}
}

// A client of tagged frames takes answers in any order, and sends again what the
// server does not take.
func TestSDKTaggedClient(t *testing.T) {
	eachSDK(t, []scriptSDK{asyncioSDK, nodeSDK}, func(t *testing.T, s scriptSDK) {
		first, second, third := map[string]uint64{}, map[string]uint64{}, map[string]uint64{}
		answer := func(tags map[string]uint64, message, body string, failed bool) oneConn {
			return func(c scriptClient) {
				taggedSays(frame.Tagged{Tag: tags[message], Body: []byte(body), Failed: failed, Meta: []byte(`{"type":"text/plain"}`)})(c)
			}
		}
		eof := func(c scriptClient) {
			if _, err := frame.ReadTagged(c, 1<<20); err != io.EOF {
				c.t.Errorf("%v instead of the end", err)
			}
		}
		url := serve(t,
			both(taggedHears(6, first), taggedSays(hello), answer(first, "d", "4", false), answer(first, "b", "stopping: no", true),
				answer(first, "c", "new-code: what", true), answer(first, "e", "retry: 30s: later", true), answer(first, "a", "", false), eof),
			both(taggedHears(2, second), taggedSays(hello)), // and it closes
			both(taggedHears(2, third), taggedSays(hello), answer(third, "b", "2", false), eof),
		) + "?tagged=true"
		got := strings.Split(s.clientSends(t, url, "a\nb\nc\nd\ne\n", "PARALLEL=1", "TIMEOUT=20"), "\n")
		slices.Sort(got)
		if want := []string{"", "", "2", "4", "failure new-code what", "failure retry 30s: later"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// Servers that do not speak tagged frames, or break their rules.
func TestSDKTaggedClientFaults(t *testing.T) {
	eachSDK(t, []scriptSDK{asyncioSDK, nodeSDK}, func(t *testing.T, s scriptSDK) {
		any := func() oneConn { return taggedHears(2, map[string]uint64{}) }
		plain := func(bytes string) oneConn { return func(c scriptClient) { _, _ = io.WriteString(c, bytes) } }
		ends := func(c scriptClient) { _, _ = io.Copy(io.Discard, c) }
		for says, server := range map[string]oneConn{
			"failure not-tagged tags are not spoken here":       both(any(), plain(failure("not-tagged: tags are not spoken here")), ends),
			"failure not-tagged the tag 1 is open":              both(any(), taggedSays(hello, frame.Tagged{Failed: true, Body: []byte("not-tagged: the tag 1 is open")}), ends),
			"the server sent something that is not a reply":     both(any(), taggedSays(hello, frame.Tagged{Tag: 99}), ends),
			"received something that is not a tagged frame":     both(any(), plain(frames("hi")), ends),
			"nothing was heard within 2 s (only a pool with re": both(any(), taggedSays(hello), ends),
		} {
			got := strings.ReplaceAll(s.clientSends(t, serve(t, server)+"?tagged=true", "one\n", "TIMEOUT=2"), "2.0 s", "2 s")
			if !strings.Contains(got, says) || strings.Count(got, "\n") != 1 {
				t.Errorf("%q, want %q", got, says)
			}
		}
	})
	for name, send := range map[string]func(t testing.TB, url, lines string, env ...string) string{"python": pythonSDK.clientSends, "php": phpClientSends} {
		if got := send(t, "tcp://127.0.0.1:1?tagged=true", "one\n"); !strings.Contains(got, "does not speak tagged frames") {
			t.Errorf("%s: %q", name, got)
		}
	}
}
