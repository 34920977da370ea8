// Package signals says which signals poolinit catches, when it starts to, and
// what they are called.
//
// A PID 1 that has not yet asked for a signal is in danger twice: the kernel
// drops what has no handler, and the Go runtime, which has a handler for
// everything, exits with status 2 for TERM, INT, QUIT and HUP until somebody
// asks for them. So the ones that mean something before the first worker runs
// are asked for by this package's initialiser. It imports nothing that takes
// time, and is sorted before the packages that do.
package signals

import (
	"os"
	"os/signal"
	"reflect"
	"sync/atomic"
	"syscall"
)

// Real-time signals count from RTMIN, which is 34 for every libc.
const (
	RTMIN = syscall.Signal(34)
	RTMAX = syscall.Signal(64)
)

// A Set is a set of signals, by number.
type Set [RTMAX + 1]bool

// SetOf returns the set of the given signals.
func SetOf(sigs ...syscall.Signal) Set {
	var s Set
	for _, sig := range sigs {
		s[sig] = true
	}
	return s
}

// Stop is what asks poolinit to stop. RTMIN+3 is what systemd sends to a
// container to halt it; it is also docker's STOPSIGNAL for such images.
var Stop = SetOf(syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, RTMIN+3)

// Reload is what asks poolinit to replace its workers one by one.
var Reload = SetOf(syscall.SIGUSR1, syscall.SIGHUP)

// Own is what never leaves poolinit: the reaper's CHLD, the Go runtime's URG
// (which it sends to its own threads all the time), a broken pipe of its own,
// and the terminal's stop signals, which must not freeze a PID 1.
var Own = SetOf(syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE,
	syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU)

// uncatchable cannot be had in Go: KILL and STOP belong to the kernel, PROF to
// the runtime's profiler, 32 and 33 to libc, RTMIN to the runtime since the
// musl of Alpine uses it too.
var uncatchable = SetOf(0, syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGPROF, 32, 33, RTMIN)

// A Mailbox receives signals, each through a channel of its own that holds
// one: signal.Notify drops what finds its channel full, and like this a drop
// is the coalescing that the kernel does itself, and a storm of one signal
// never costs another.
type Mailbox struct {
	boxes  [RTMAX + 1]chan os.Signal
	counts [RTMAX + 1]atomic.Uint64
}

// urgent is Stop and Reload, the likeliest first: the runtime takes 0.1 ms for
// each, in which the ones after it are lost or deadly.
var urgent = []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, RTMIN + 3, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGHUP}

// usual are those of the rest that people send.
var usual = []syscall.Signal{syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGCONT, syscall.SIGALRM}

// early has been open since this package was initialised.
var early = open()

func open() *Mailbox {
	m := new(Mailbox)
	for sig := range m.boxes {
		if !uncatchable[sig] && syscall.Signal(sig) != syscall.SIGCHLD {
			m.boxes[sig] = make(chan os.Signal, 1) // 1: see Mailbox
		}
	}
	asked := make(chan struct{})
	// In a goroutine of its own: while packages are initialised main's is tied to its thread, and
	// each signal would have threads take turns twice more.
	go func() {
		for _, sig := range urgent {
			signal.Notify(m.boxes[sig], sig)
		}
		close(asked)
	}()
	<-asked
	return m
}

// Early returns the mailbox of the process. It holds the stop and reload
// signals that have come since the program began. There is one, for one
// reader.
func Early() *Mailbox { return early }

// CatchRest begins to catch every other signal that can be caught, but CHLD.
// It takes up to 2 ms (the runtime does it one at a time), so it comes after
// whatever is urgent. Until then the runtime ignores them, or exits for a few
// that nobody sends to a PID 1 that just began (ABRT, SEGV and the like).
func (m *Mailbox) CatchRest() {
	for _, sig := range usual {
		signal.Notify(m.boxes[sig], sig)
	}
	for sig, box := range m.boxes {
		if box != nil && !Stop[sig] && !Reload[sig] {
			signal.Notify(box, syscall.Signal(sig))
		}
	}
}

// Each calls f for every signal that comes, CHLD excepted, one after the
// other, until done is closed. Several of the same kind may come as one.
func (m *Mailbox) Each(done <-chan struct{}, f func(syscall.Signal)) {
	cases := []reflect.SelectCase{{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(done)}}
	for _, box := range m.boxes {
		if box != nil {
			cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(box)})
		}
	}
	for {
		i, v, _ := reflect.Select(cases)
		if i == 0 {
			return
		}
		sig := v.Interface().(syscall.Signal)
		m.counts[sig].Add(1)
		f(sig)
	}
}

// Count returns how many signals of a kind Each has called its function for.
func (m *Mailbox) Count(sig syscall.Signal) uint64 { return m.counts[sig].Load() }
