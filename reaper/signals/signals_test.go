package signals

import (
	"os"
	"syscall"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]syscall.Signal{
		"TERM": 15, "SIGTERM": 15, "sigterm": 15, "15": 15, "00015": 15, "KILL": 9, "usr1": 10, "64": 64,
		"RTMIN": 34, "SIGRTMIN+3": 37, "rtmin+30": 64, "RTMAX": 64, "RTMAX-2": 62, "WINCH": 28, "SYS": 31,
	} {
		got, err := Parse(in)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "SIG", "FOO", "0", "-1", "65", "RTMIN+31", "RTMIN-1", "RTMAX-31", "RTMAX+1", "RTMIN+", "RTMINX", "RTMAX-", "SIGSIGTERM", "00000000", "15 ", "1e1", "1000000"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", in, got)
		}
	}
}

func TestNameIsWhatParseReads(t *testing.T) {
	for sig := syscall.Signal(1); sig <= RTMAX; sig++ {
		if sig == 32 || sig == 33 {
			continue // libc's own, without names
		}
		if got, err := Parse(Name(sig)); err != nil || got != sig {
			t.Errorf("Parse(Name(%d)) = Parse(%q) = %d, %v", sig, Name(sig), got, err)
		}
	}
	if got := Name(32); got != "signal 32" {
		t.Errorf("Name(32) = %q", got)
	}
}

// Every signal that a Go program can have at all must arrive, each once.
func TestEverySignalArrives(t *testing.T) {
	m := Early()
	m.CatchRest()
	got := make(chan syscall.Signal)
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() { // ends when done is closed, below
		defer close(ended)
		m.Each(done, func(sig syscall.Signal) {
			if sig != syscall.SIGURG { // the runtime's, at any time
				got <- sig
			}
		})
	}()
	for sig := syscall.Signal(1); sig <= RTMAX; sig++ {
		if uncatchable[sig] || sig == syscall.SIGCHLD || sig == syscall.SIGURG {
			continue
		}
		before := m.Count(sig)
		if err := syscall.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		select {
		case s := <-got:
			if s != sig {
				t.Errorf("sent %s, got %s", Name(sig), Name(s))
			}
			if n := m.Count(sig) - before; n != 1 {
				t.Errorf("%s came once and was counted %d times", Name(sig), n)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s did not arrive", Name(sig))
		}
	}
	close(done)
	<-ended
	for sig := range uncatchable {
		if n := m.Count(syscall.Signal(sig)); uncatchable[sig] && n != 0 {
			t.Errorf("%s was counted %d times", Name(syscall.Signal(sig)), n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("TERM")
	f.Add("RTMAX-3")
	f.Fuzz(func(t *testing.T, s string) {
		if sig, err := Parse(s); err == nil && (sig < 1 || sig > RTMAX) {
			t.Errorf("Parse(%q) = %d", s, sig)
		}
	})
}
