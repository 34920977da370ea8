// Package signals catches signals, as early as Go allows, and knows their names and
// their meaning for poolinit.
//
// Until a program asks for a signal, a PID 1 can lose it in two ways. Before the Go
// runtime is up the kernel drops it, because a PID 1 without a handler ignores all
// signals. After that the runtime has a handler for every signal, and exits with
// status 2 for TERM, INT, QUIT and HUP until the program asks for them. So the
// initialiser of this package asks for the signals that mean stop and reload. It
// imports nothing that takes time to initialise, and its import path sorts before
// the packages that do: a test of the house checks that.
//
// All signals go to one Mailbox, which has one reader.
package signals

import (
	"os"
	"os/signal"
	"reflect"
	"sync/atomic"
	"syscall"

	"github.com/poolinit/poolinit/reaper/entry"
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

// Stop is the signals that ask poolinit to stop. systemd sends RTMIN+3 to a container
// to halt it; it is also docker's STOPSIGNAL for such images.
var Stop = SetOf(syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, RTMIN+3)

// Reload is the signals that ask poolinit to replace its workers one by one.
var Reload = SetOf(syscall.SIGUSR1, syscall.SIGHUP)

// Own is the signals that poolinit never forwards: CHLD, which is the reaper's; URG,
// which the Go runtime sends to its own threads all the time; PIPE, for a broken pipe
// of its own; and the stop signals of a terminal, which must not freeze a PID 1.
var Own = SetOf(syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE,
	syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU)

// uncatchable is the signals that a Go program cannot receive. KILL and STOP are the
// kernel's, PROF is the runtime's profiler's, 32 and 33 are libc's, and the runtime
// leaves RTMIN alone because the musl of Alpine uses it.
var uncatchable = SetOf(0, syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGPROF, 32, 33, RTMIN)

// CanMean reports whether poolinit can act on a signal as its user wishes: it can be
// caught, and is not poolinit's own.
func CanMean(sig syscall.Signal) bool { return !uncatchable[sig] && !Own[sig] }

// A Mailbox receives signals, each through a channel of its own that holds one.
// signal.Notify drops a signal whose channel is full. With one channel per signal a
// drop only coalesces two signals of the same kind, as the kernel does, and many
// signals of one kind never cause the loss of another.
type Mailbox struct {
	boxes  [RTMAX + 1]chan os.Signal
	counts [RTMAX + 1]atomic.Uint64
}

// urgent is Stop and Reload, the likeliest first. The runtime takes 0.1 ms for each,
// and until then a signal is lost or ends the program.
var urgent = []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, RTMIN + 3, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGHUP}

// usual is the other signals that users send, to be caught before the rest.
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
	// In a goroutine of its own, which ends at once: during initialisation the main
	// goroutine is tied to its thread, and each Notify would switch threads twice more.
	go func() {
		for _, sig := range urgent {
			signal.Notify(m.boxes[sig], sig)
		}
		close(asked)
	}()
	<-asked
	m.postRecorded()
	return m
}

// postRecorded adds the signals that came before the runtime had a handler for them.
func (m *Mailbox) postRecorded() {
	recorded := entry.TakeRecorded()
	for sig, box := range m.boxes {
		if sig > 0 && recorded&(1<<(sig-1)) != 0 {
			select {
			case box <- syscall.Signal(sig):
			default: // another one of its kind waits already
			}
		}
	}
}

// Early returns the mailbox of the process. It holds the stop and reload signals that
// have arrived since the program began. There is one, for one reader.
func Early() *Mailbox { return early }

// CatchRest begins to catch every other signal that can be caught, except CHLD. It
// takes up to 2 ms, because the runtime does them one at a time, so it is called after
// everything urgent. Until then the runtime ignores them, or exits for a few that are
// not sent to a PID 1 that just began (ABRT, SEGV and the like).
func (m *Mailbox) CatchRest() {
	for _, sig := range usual {
		signal.Notify(m.boxes[sig], sig)
	}
	for sig, box := range m.boxes {
		if box != nil && !Stop[sig] && !Reload[sig] {
			signal.Notify(box, syscall.Signal(sig))
		}
	}
	m.postRecorded()
}

// Each calls f for every signal that arrives, except CHLD, one after the other, until
// done is closed. Several of the same kind may arrive as one.
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

// Waits reports whether a signal of a set has arrived that no reader has taken.
func (m *Mailbox) Waits(set Set) bool {
	for sig, box := range m.boxes {
		if set[sig] && len(box) > 0 {
			return true
		}
	}
	return false
}

// Count returns for how many signals of a kind Each has called its function.
func (m *Mailbox) Count(sig syscall.Signal) uint64 { return m.counts[sig].Load() }
