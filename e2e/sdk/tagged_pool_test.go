package sdk

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
)

// pool runs the tests' program for tagged messages by hand.
func (k taggedKind) pool(t testing.TB, env ...string) scriptPool {
	t.Helper()
	url := harness.UnixURL(t, "?reply=always")
	prog := harness.Program{Args: []string{k.s.needs, filepath.Join(k.s.dir(t), "tagged"+k.s.ext)},
		Env: append([]string{"POOLINIT=" + harness.Binary(t), "POOL_URL=" + url, "PYTHONUNBUFFERED=", k.env,
			fmt.Sprint("CONCURRENCY=", k.concurrency)}, env...)}
	p := scriptPool{harness.PoolOf(harness.Start(t, prog)), k.s, url}
	p.Stderr.Expect(t, "accepting messages")
	p.Stdout.Expect(t, "up worker=0")
	return p
}

func (p scriptPool) end() {
	p.T.Helper()
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// What poolinit knows of a message, a later attempt, and a message that takes longer
// than --message-timeout and says that it is at work.
func TestSDKTaggedPoolMessage(t *testing.T) {
	eachTaggedKind(t, all, func(t *testing.T, k taggedKind) {
		p := k.pool(t, "POOLINIT_MESSAGE_TIMEOUT=2s", "POOLINIT_ATTEMPTS=2", "POOLINIT_RETRY_DELAY=10ms")
		c := p.client()
		source, _, _ := strings.Cut(p.url, "?")
		if got := strings.ToLower(c.ask("attempt")); got != "1 "+strings.ToLower(source)+" true true" {
			t.Errorf("%q", got)
		}
		begin := time.Now()
		c.send("retry-first 300ms")
		c.want("retry-first 300ms")
		if took := time.Since(begin); took < 300*time.Millisecond {
			t.Errorf("the second attempt came after %v", took)
		}
		c.send("touching 0.8")
		c.want("touching 0.8")
		c.send("refuse it")
		c.want("!refused: it")
		if got := c.ask("fail now"); !strings.HasPrefix(got, "!given-up: after 2 attempts: error: ") {
			t.Errorf("%q", got)
		}
		if n := p.Count("worker exited"); n > 0 {
			t.Errorf("%d workers ended\n%s", n, p.Stderr.String())
		}
		c.Close()
		p.end()
	})
}

// Several messages of several clients at the same time; a reload in the middle of
// them loses none.
func TestSDKTaggedPoolConcurrency(t *testing.T) {
	eachTaggedKind(t, concurrent, func(t *testing.T, k taggedKind) {
		p := k.pool(t)
		c, d := p.client(), p.client()
		if got := c.ask("concurrency"); got != "4" {
			t.Errorf("concurrency %s", got)
		}
		file := filepath.Join(t.TempDir(), "go-on")
		c.send("wait "+file, "wait "+file, "wait "+file)
		p.Stdout.ExpectTimes(t, "waiting\n", 3)
		for i := range 100 {
			body := fmt.Sprint("quick ", i)
			d.send(body)
			d.want(body)
		}
		p.Signal(syscall.SIGUSR1)
		p.ExpectLog("reload started", nil)
		touch(t, file)
		c.want("wait "+file, "wait "+file, "wait "+file)
		p.ExpectLog("reload done", nil)
		d.send("after")
		d.want("after")
		c.Close()
		d.Close()
		p.end()
	})
}

// A message that ends its worker is given up alone: those beside it are handled.
func TestSDKTaggedPoolPoison(t *testing.T) {
	eachTaggedKind(t, concurrent, func(t *testing.T, k taggedKind) {
		p := k.pool(t, "POOLINIT_ATTEMPTS=2", "POOLINIT_RESTART_DELAY=10ms")
		c, d := p.client(), p.client()
		c.send("sleep 0.3", "sleep 0.4", "sleep 0.5")
		d.send("exit 3")
		c.want("sleep 0.3", "sleep 0.4", "sleep 0.5")
		if got := d.next(); !strings.HasPrefix(got, "!given-up: after 2 attempts: ") {
			t.Errorf("%q", got)
		}
		c.Close()
		d.Close()
		p.end()
	})
}

// One that never ends is given up after its time, and others are handled meanwhile.
func TestSDKTaggedPoolNever(t *testing.T) {
	eachTaggedKind(t, concurrent, func(t *testing.T, k taggedKind) {
		p := k.pool(t, "POOLINIT_ATTEMPTS=1", "POOLINIT_MESSAGE_TIMEOUT=2s")
		c, d := p.client(), p.client()
		c.send("never")
		p.Stdout.Expect(t, "waiting")
		for i := range 100 {
			body := fmt.Sprint("quick ", i)
			d.send(body)
			d.want(body)
		}
		c.want("!given-up: no answer within 2s")
		d.send("after")
		d.want("after")
		c.Close()
		d.Close()
		p.end()
	})
}
