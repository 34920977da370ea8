package sdk

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// taggedClients are the SDKs whose clients speak tagged frames; Go's has tests of its
// own.
var taggedClients = []scriptSDK{asyncioSDK, nodeSDK}

// The clients of tagged frames with the real poolinit and a worker that handles
// several messages at a time: each gets the answer to its own message, and a slow
// one holds up no other.
func TestSDKTaggedClientPool(t *testing.T) {
	eachSDK(t, taggedClients, func(t *testing.T, s scriptSDK) {
		url := harness.UnixURL(t, "?tagged=true")
		p := harness.PoolOf(harness.StartSDK(t, url, "--deliver", "tagged", "--concurrency", "8", "--message-timeout", "2s", "--attempts", "2", "--max-message", "1KiB"))
		answers := map[string]string{ // by message; those that take long are last
			"hello":               "hello",
			"refuse not mine":     "failure refused not mine",
			"fail now":            "failure given-up after 2 attempts: error: now",
			"retry 50ms":          "retry 50ms",
			"retry 10m":           "failure retry 10m0s: not yet",
			"touch 3s":            "touch 3s", // longer than --message-timeout
			"sleep 1s":            "sleep 1s",
			"":                    "",
			"hellö":               "hellö",
			fmt.Sprintf("%d", 17): "17",
		}
		var lines, want []string
		for line, answer := range answers {
			if line != "touch 3s" {
				lines, want = append(lines, line), append(want, answer)
			}
		}
		lines, want = append([]string{"touch 3s"}, lines...), append(want, answers["touch 3s"])
		got := strings.Split(strings.TrimSuffix(s.clientSends(t, url, strings.Join(lines, "\n")+"\n", "PARALLEL=1"), "\n"), "\n")
		if last := got[len(got)-1]; last != "touch 3s" {
			t.Errorf("the last answer is %q: the first message held up others", last)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q\nwant %q", got, want)
		}
		if got := s.clientSends(t, url, fmt.Sprintf("%1025d\nafter\n", 1)); got != "failure too-big the longest message here is 1024 bytes\nafter\n" {
			t.Errorf("%q", got)
		}
		if got := s.clientSends(t, strings.TrimSuffix(url, "?tagged=true")+"?reply=always", "one\n"); !strings.Contains(got, "not-tagged") {
			t.Errorf("plain frames: %q", got)
		}
		p.ExpectLog("clients broke the rules of tagged frames", nil)
		p.Signal(syscall.SIGTERM)
		p.ExpectExit(0)
	})
}

// A pool that is killed, and one that stops: the clients notice neither.
func TestSDKTaggedClientRestart(t *testing.T) {
	eachSDK(t, taggedClients, func(t *testing.T, s scriptSDK) {
		url := harness.UnixURL(t, "?tagged=true")
		flags := []string{"--deliver", "tagged", "--concurrency", "8", "-n", "2"}
		p := harness.PoolOf(harness.StartSDK(t, url, flags...))
		said := make(chan string, 1) // 1: the test may have failed
		all := strings.Split(strings.TrimSuffix(harness.Seq(400), "\n"), "\n")
		go func() { // ends with its client
			said <- s.clientSends(t, url, "sleep 600s\n"+strings.Join(all, "\n")+"\n", "PARALLEL=1", "CONNECT_TIMEOUT=60")
		}()
		p.Stdout.Expect(t, "message: 400\n")
		p.Signal(syscall.SIGKILL)
		p.Wait()
		p = harness.PoolOf(harness.StartSDK(t, url, append(flags, "--stop-timeout", "1s")...))
		p.Stdout.Expect(t, "message: sleep 600s\n")
		p.Signal(syscall.SIGTERM)
		got := strings.Split(strings.TrimSuffix(<-said, "\n"), "\n")
		if last := got[len(got)-1]; !strings.HasPrefix(last, "failure interrupted ") {
			t.Errorf("the message that is never answered: %q", last)
		}
		got = got[:len(got)-1]
		slices.Sort(got)
		slices.Sort(all)
		if got = slices.Compact(got); !slices.Equal(got, all) {
			t.Errorf("%d answers, want %d: %.300q", len(got), len(all), got)
		}
		p.Wait()
	})
}

// Workers in each language behind a source of tagged frames: what its clients send
// goes through with its number, whatever the worker does with it.
func TestSDKTaggedBothEnds(t *testing.T) {
	eachTaggedKind(t, concurrent, func(t *testing.T, k taggedKind) {
		url := harness.UnixURL(t, "?tagged=true")
		p := k.pool(t, "POOL_URL="+url, "POOLINIT_ATTEMPTS=2", "POOLINIT_RETRY_DELAY=10ms")
		for _, s := range taggedClients {
			harness.Need(t, s.needs)
			lines := []string{"sleep 0.5", "quick 1", "refuse it", "retry-first 50ms", "quick 2"}
			got := strings.Split(strings.TrimSuffix(s.clientSends(t, url, strings.Join(lines, "\n")+"\n", "PARALLEL=1"), "\n"), "\n")
			if last := got[len(got)-1]; last != "sleep 0.5" {
				t.Errorf("%s: the last answer is %q", s.name, last)
			}
			slices.Sort(got)
			if want := []string{"failure refused it", "quick 1", "quick 2", "retry-first 50ms", "sleep 0.5"}; !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", s.name, got, want)
			}
		}
		p.end()
	})
}
