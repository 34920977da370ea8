package sdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// acrossRestart stops a pool that has clients, starts it again, and returns when
// the clients have sent another 200 messages. answered says how many they have.
func acrossRestart(t *testing.T, url string, clients func(), answered func() int, flags ...string) {
	t.Helper()
	pool := func() harness.Pool { return harness.PoolOf(harness.StartSDK(t, url, append(flags, "-n", "2")...)) }
	more := func() {
		t.Helper()
		before := answered()
		testkit.Eventually(t, "200 more replies", func() (any, bool) { return answered(), answered() >= before+200 })
	}
	p := pool()
	clients()
	more()
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	p = pool()
	more()
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0) // the clients wait for a third
	p = pool()
	more()
	t.Cleanup(func() { // after the clients' last message
		p.Signal(syscall.SIGTERM)
		p.ExpectExit(0)
	})
}

// Senders that share a client do not notice that its pool is replaced.
func TestGoClientRestart(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"tcp://" + harness.FreePort(t), harness.UnixURL(t, "")} {
		stdin, enough, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer enough.Close() // it is closed already if all is well
		defer stdin.Close()
		var senders *harness.Process
		acrossRestart(t, url+phpAlways, func() {
			senders = harness.Start(t, harness.Program{Host: true, Stdin: stdin, Args: []string{harness.SDKClient(t), "-senders", "8", "-connect-timeout", "2m", url}})
		}, func() int {
			select {
			case <-senders.Exited:
				t.Fatalf("the client has ended: %s", senders.Stderr.String())
			default:
			}
			return strings.Count(senders.Stdout.String(), "\n")
		})
		enough.Close()
		if code := senders.Wait(); code != 0 {
			t.Errorf("exit code %d: %s", code, senders.Stderr.String())
		}
	}
}

// A goAnswer is what the client's program says of a message.
type goAnswer struct {
	Reply             []byte
	Type              string
	Code, Text, Error string
}

// goAsk sends messages with the client of the Go package.
func goAsk(t *testing.T, flags []string, bodies ...string) (answers []goAnswer) {
	t.Helper()
	var stdin strings.Builder
	for _, body := range bodies {
		text, err := json.Marshal([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		stdin.Write(text)
	}
	done := harness.RunClient(t, strings.NewReader(stdin.String()), append([]string{harness.SDKClient(t)}, flags...)...)
	out := json.NewDecoder(strings.NewReader(done.Stdout))
	for {
		var a goAnswer
		if err := out.Decode(&a); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, a)
	}
	if len(answers) != len(bodies) || done.Code != 0 {
		t.Fatalf("%d answers to %d messages, exit code %d: %s", len(answers), len(bodies), done.Code, done.Stderr)
	}
	return answers
}

func TestGoClientFailures(t *testing.T) {
	url := harness.UnixURL(t, phpAlways)
	harness.StartSDK(t, url, "--attempts", "1", "--max-message", "1KiB")
	tests := []struct {
		body, reply, code, text string
	}{
		{body: "hello", reply: "hello"},
		{body: "nothing"},
		{body: ""},
		{body: "refuse not mine", code: "refused", text: "not mine"},
		{body: "fail now", code: "given-up", text: "error: now"},
		{body: fmt.Sprintf("%1025d", 1), code: "too-big", text: "the longest message here is 1024 bytes"},
		{body: "\x00\xff\n", reply: "\x00\xff\n"},
	}
	var bodies []string
	for _, tt := range tests {
		bodies = append(bodies, tt.body)
	}
	for i, got := range goAsk(t, []string{url}, bodies...) {
		if tt := tests[i]; string(got.Reply) != tt.reply || got.Code != tt.code || got.Text != tt.text || got.Error != "" {
			t.Errorf("%.20q gets %+v", tt.body, got)
		}
	}
}

func TestGoClientTLS(t *testing.T) {
	harness.Need(t, "openssl")
	p, dir := harness.StartTLS(t, "&reply=always")
	none := t.TempDir() + "/none.crt"
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ ca, want string }{{dir + "/server.crt", "hello"}, {none, ""}} {
		got := goAsk(t, []string{"-ca", tt.ca, "tcp://" + p.Addr}, "hello")[0]
		if string(got.Reply) != tt.want || (got.Error == "") != (tt.want != "") {
			t.Errorf("%+v", got)
		}
	}
}
