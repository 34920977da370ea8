package sdk

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
)

// goMeta is what the Go worker knows of a message beside its body.
type goMeta struct {
	ID, Source, Key string
	Attempt         int
	Time, Deadline  time.Time
}

// Tagged frames from a client to a worker and back, both made with the Go modules.
func TestGoTagged(t *testing.T) {
	t.Parallel()
	url := harness.UnixURL(t, "?tagged=true")
	harness.StartSDK(t, url, "--deliver", "tagged", "--concurrency", "4", "--message-timeout", "2s", "--attempts", "2", "--max-message", "1KiB")
	tests := []struct {
		body, reply, kind, code, text string
	}{
		{body: "hello", reply: "hello"},
		{body: ""},
		{body: "nothing"},
		{body: "refuse not mine", code: "refused", text: "not mine"},
		{body: "fail now", code: "given-up", text: "after 2 attempts: error: now"},
		{body: "panic now", code: "given-up", text: "after 2 attempts: panic: now"},
		{body: "retry 50ms", reply: "retry 50ms"},
		{body: "retry 10m", code: "retry", text: "10m0s: not yet"},
		{body: "touch 3s", reply: "touch 3s"}, // longer than --message-timeout
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
	before := time.Now()
	got := goAsk(t, []string{"-key", "user 1991", url}, "meta")[0]
	var meta goMeta
	if err := json.Unmarshal(got.Reply, &meta); err != nil || got.Type != "application/json" {
		t.Fatalf("%+v, %v", got, err)
	}
	source, _, _ := strings.Cut(url, "?")
	if meta.Key != "user 1991" || meta.Attempt != 1 || meta.Source != source || meta.ID == "" ||
		meta.Time.Sub(before).Abs() > time.Minute || meta.Deadline.Sub(meta.Time) < time.Second {
		t.Errorf("%+v", meta)
	}
}

// One worker handles messages at the same time, and a slow one holds up no other.
func TestGoConcurrency(t *testing.T) {
	t.Parallel()
	url := harness.UnixURL(t, "?tagged=true")
	harness.StartSDK(t, url, "--deliver", "tagged", "--concurrency", "10")
	slow := make(chan time.Duration, 10) // 10: as many as there are clients
	began := time.Now()
	for range 10 {
		go func() { // ends with its client
			defer func() { slow <- time.Since(began) }()
			goAsk(t, []string{url}, "sleep 2s")
		}()
	}
	for range 10 {
		if took := <-slow; took > 15*time.Second {
			t.Errorf("ten messages of 2 s took %v", took)
		}
	}
}

// Neither a client nor a worker with tags notices that a pool is replaced.
func TestGoTaggedRestart(t *testing.T) {
	t.Parallel()
	url := harness.UnixURL(t, "?tagged=true")
	stdin, enough, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer enough.Close() // it is closed already if all is well
	defer stdin.Close()
	var senders *harness.Process
	acrossRestart(t, url, func() {
		senders = harness.Start(t, harness.Program{Host: true, Stdin: stdin, Args: []string{harness.SDKClient(t), "-senders", "8", "-connect-timeout", "2m", url}})
	}, func() int {
		select {
		case <-senders.Exited:
			t.Fatalf("the client has ended: %s", senders.Stderr.String())
		default:
		}
		return strings.Count(senders.Stdout.String(), "\n")
	}, "--deliver", "tagged", "--concurrency", "4")
	enough.Close()
	if code := senders.Wait(); code != 0 {
		t.Errorf("exit code %d: %s", code, senders.Stderr.String())
	}
}
