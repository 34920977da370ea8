package sdk

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// A pool that is run by hand: used over TCP, reloaded, robbed of a worker, and
// stopped.
func TestSDKScriptLife(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		addr := harness.FreePort(t)
		p := s.startAt(t, "tcp://"+addr+"?reply=always")
		url := "tcp://" + addr + "?reply=always"
		harness.Send(t, strings.NewReader(harness.Seq(500)), url).Want(t, harness.Seq(500), 0)
		p.Signal(syscall.SIGUSR1)
		p.ExpectLog("reload done", nil)
		ups := p.awaitUps(4)
		for i, u := range ups {
			if u.of != 2 || u.generation != i/2+1 {
				t.Errorf("%d: %+v", i, u)
			}
		}
		if err := syscall.Kill(p.outside(ups[3]), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Signal == "SIGKILL" && *r.Worker == ups[3].worker })
		if u := p.awaitUps(5)[4]; u.worker != ups[3].worker || u.generation != 2 {
			t.Errorf("%+v replaces %+v", u, ups[3])
		}
		harness.Send(t, strings.NewReader(harness.Seq(500)), url).Want(t, harness.Seq(500), 0)
		p.stop(1)
	})
}

// What a handler may do, and what its client gets.
func TestSDKScriptReplies(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	binary := strings.Repeat(string(every), 4000)
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.start(t)
		c := p.client()
		for _, tt := range [][2]string{
			{"hello", "hello"},
			{"", ""},
			{"none", ""},
			{"write more", "wrote more"},
			{"print\nthis", "print\nthis"},
			{"print that", "print that"},
			{binary, binary},
			{"big 0", ""},
			{"big 52428800", strings.Repeat("x", 52428800)},
			{"refuse not mine", "!refused: not mine"},
			{"refuse " + strings.Repeat("ä", 3000), "!refused: " + strings.Repeat("ä", 2048)},
			{"fail now", "!given-up: after 3 attempts: error: " + s.fails},
			{"fine", "fine"},
		} {
			c.send(tt[0])
			c.want(tt[1])
		}
		for body, want := range map[string]string{
			"wrong":        "!given-up: after 3 attempts: error: TypeError: a reply is ",
			"big 67108865": "the reply has 67108865 bytes, and poolinit takes 67108864",
			"exit 3":       "!given-up: after 3 attempts: the worker ", // with its code, unless the machine is too slow to tell
			"exit 0":       "!given-up: after 3 attempts: the worker ",
		} {
			if got := c.ask(body); !strings.Contains(got, want) {
				t.Errorf("%s: %.300q, want %q", body, got, want)
			}
		}
		for _, code := range []int{0, 3} {
			p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Code == code && r.Signal == "" })
		}
		c.send("fine")
		c.want("fine")
		p.Stdout.Expect(t, "\nprinted: that\n")
		for text, n := range map[string]int{s.fails: 3, "not mine": 0, "pool" + s.ext: 1} {
			if got := strings.Count(p.Stderr.String(), text); got < n || n == 0 && got > 0 {
				t.Errorf("%q %d times on stderr", text, got)
			}
		}
		p.stop(0) // those that exited have come down, too
	})
}

// A body longer than --max-message comes to no worker.
func TestSDKScriptTooBig(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.start(t, "MAX_MESSAGE=8MiB")
		c := p.client()
		big := strings.Repeat("b", 8<<20)
		c.send(big)
		c.want(big)
		c.send(big + "b")
		if got := c.next(); !strings.HasPrefix(got, "!too-big: ") || !strings.Contains(got, "8388608") {
			t.Errorf("%.300q", got)
		}
		p.stop(0)
	})
}

// A handler that does not return costs a worker, and its own message alone.
func TestSDKScriptLoops(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.start(t, "POOLINIT_MESSAGE_TIMEOUT=4s", "POOLINIT_ATTEMPTS=1", "POOLINIT_WINDOW=10", "POOLINIT_WORKERS=1")
		c := p.client()
		var quick []string
		for i := range 8 {
			quick = append(quick, fmt.Sprint("quick ", i))
		}
		c.send(append(quick, "loop", "after")...)
		c.want(quick...)
		c.want("!given-up: no answer within 4s", "after")
		p.stop(strings.Count(p.Stdout.String(), "looping\n"))
	})
}

// A stop in the middle of a message waits for it.
func TestSDKScriptStopInHandler(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.start(t, "POOLINIT_STOP_TIMEOUT=1m")
		c := p.client()
		file := filepath.Join(t.TempDir(), "go-on")
		c.send("wait " + file)
		p.Stdout.Expect(t, "waiting\n")
		p.Signal(syscall.SIGTERM)
		p.ExpectLog("stopping", nil)
		touch(t, file)
		c.want("wait " + file)
		c.Close()
		p.expectEnd(0)
	})
}

// SIGTERM from somebody else, in a handler: it ends, its reply goes out, and then
// the worker ends. It asks for no more, so that costs no message an attempt.
func TestSDKScriptTermInHandler(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.start(t, "POOLINIT_ATTEMPTS=1", "POOLINIT_WORKERS=1")
		c := p.client()
		for i := range 3 {
			file := filepath.Join(t.TempDir(), fmt.Sprint("go-on-", i))
			c.send("wait " + file)
			p.Stdout.ExpectTimes(t, "waiting\n", i+1)
			if err := syscall.Kill(p.outside(p.awaitUps(i + 1)[i]), syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			touch(t, file)
			c.want("wait " + file)
			p.Stdout.ExpectTimes(t, "down worker=0\n", i+1)
			c.send("next")
			c.want("next")
		}
		p.stop(0)
	})
}

// stop() ends a worker under load, and loses nothing.
func TestSDKScriptStop(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.start(t, "POOLINIT_ATTEMPTS=1")
		// One after the other: until a worker that wants to stop has been heard, it may get the second one too.
		for i := range 2 {
			want := harness.Seq(1000) + "stop\n" + harness.Seq(1000)
			harness.Send(t, strings.NewReader(want), p.url).Want(t, want, 0)
			p.Stdout.ExpectTimes(t, "down worker=", i+1)
			p.awaitUps(i + 3)
		}
		p.stop(0)
	})
}

// A worker counts as ready when workerStart is through: a reload stops at the first
// one where it fails, and the other workers go on as they are.
func TestSDKScriptReloadFails(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.start(t, "START=fails 2", "POOLINIT_RESTART_DELAY=1h", "POOLINIT_RESTART_DELAY_MAX=1h")
		c := p.client()
		if got := c.ask("fine"); got != "fine" { // all are ready, or the reload would wait for them
			t.Error(got)
		}
		p.Signal(syscall.SIGUSR1)
		failed := p.ExpectLog("reload failed", nil)
		if !strings.Contains(failed.Error, "new worker 0 is not ready: ") || p.Count("worker replaced") != 0 {
			t.Errorf("%+v\n%s", failed, p.Stderr.String())
		}
		if got := c.ask("pid"); got != fmt.Sprint(p.upOf(1).pid) {
			t.Errorf("%s has answered: %v", got, p.ups())
		}
		p.stop(0)
	})
}

// What a worker says of itself.
func TestSDKScriptNotify(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.start(t, "POOLINIT_WORKERS=1")
		c := p.client()
		if got := c.ask("notify X=y\nSTATUS=warm and well"); got != "true" {
			t.Error(got)
		}
		p.ExpectLog("worker status", func(r harness.Record) bool { return r.Status == "warm and well" })
		if got := c.ask("child"); strings.Contains(got, "NOTIFY_SOCKET") {
			t.Error(got)
		}
		p.stop(0)

		w := s.worker(t, "NOTIFY_SOCKET=")
		w.write(frames("notify STATUS=alone"))
		w.want("false")
		w.end()
		w.wantEnd(0, "")
	})
}

// shutdown() ends the pool.
func TestSDKScriptShutdown(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.start(t)
		c := p.client()
		c.send("shutdown")
		c.want("shutdown")
		c.Close()
		p.expectEnd(0)
	})
}

// A worker that detaches works on beside its successor, until the pool stops.
func TestSDKScriptDetach(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.start(t, "POOLINIT_WORKERS=1")
		c := p.client()
		file := filepath.Join(t.TempDir(), "go-on")
		for i := range 2 {
			c.send("detach "+file, "pid")
			c.want("detached", fmt.Sprint(p.awaitUps(i + 2)[i+1].pid))
			p.Stdout.ExpectTimes(t, "waiting\n", i+1)
			if i > 0 {
				break // the stop finds it at work
			}
			p.outside(p.ups()[i]) // it is still there
			touch(t, file)
			p.ExpectLog("detached worker exited", func(r harness.Record) bool { return r.Code == 0 && r.Signal == "" })
			file += "-never"
		}
		c.Close()
		p.stop(0)
	})
}

// A child of a worker is none: it has neither the variables nor the socket.
func TestSDKScriptChild(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.start(t)
		got := p.client().ask("child")
		for _, name := range []string{"POOLINIT_WORKER_ID", "POOLINIT_FD", "POOLINIT_DELIVER", "POOLINIT_GENERATION", "POOLINIT_WORKERS", " 4 -> "} {
			if strings.Contains(got, name) || !strings.Contains(got, "PATH=") || !strings.Contains(got, " 3 -> ") { // that is ls's
				t.Errorf("%s in\n%s", name, got)
			}
		}
		p.stop(0)
	})
}
