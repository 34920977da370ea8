package supervisor

import (
	"syscall"
	"time"

	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor/notify"
)

// An Identity is what a worker process is told about itself.
type Identity struct {
	ID         int // its slot, 0 to Workers-1
	Workers    int
	Generation int // 1, and one more with each reload
}

// A Launch starts a worker process. It is called from any goroutine.
type Launch func(Identity) (Process, error)

// A Process is what a pool needs of a worker process. Package launch has them;
// tests have fakes. Its methods may be called from any goroutine.
type Process interface {
	// Info returns what is known of the process now.
	Info() ProcessInfo
	// Events returns the channels that tell what happens to the process. They are
	// the same ones each time.
	Events() Events
	// Signal sends a signal to the process alone or to its whole group. The group
	// gets it also after the process itself has exited.
	Signal(Target, syscall.Signal) error
	// Feed begins to give the process messages. One that is not proven gets them
	// last and one at a time, until it has answered one without failure, or
	// MarkReady; until then the message timeout counts from grace at the earliest.
	// Finish ends the feeding: its channel is closed when the process has answered
	// what it had. Without messages Feed does nothing, and Finish returns a closed
	// channel.
	Feed(proven bool, grace time.Time)
	MarkReady()
	Finish() <-chan struct{}
	// Release frees what else belongs to the process. It is called once, when the
	// process has been reaped, or when a stop does not wait any longer for one that
	// survives SIGKILL. What it has not answered goes to other workers; why is for
	// the records of these messages. With byPool the pool has ended the process, and
	// that is not an attempt of any message. The result says what the process did
	// with its messages.
	Release(why string, byPool bool) Life
}

// A Life is what is known, at the end of a process, of its messages.
type Life struct {
	Answered   bool      // it has answered one, or failed at one
	Held       bool      // it ended with one in hand
	LastAnswer time.Time // when any worker of the pool last answered one; zero: none has
}

// A ProcessInfo is what is known of a process at one moment.
type ProcessInfo struct {
	PID  int           // 0: no process runs now, because its command runs once a message
	CPU  time.Duration // of commands that have ended, where one runs once a message
	Exit reaper.Exit   // how it ended; zero before Events.Exited is closed
}

// Events are the channels of one process. A nil channel never tells anything.
type Events struct {
	Exited   <-chan struct{}       // closed when the process has been reaped
	Gone     <-chan struct{}       // closed when its group is empty as well
	Notices  <-chan notify.Message // what it says by sd_notify; may be closed at any time
	Asks     <-chan Ask            // what its message channel wants of the pool
	Answered <-chan struct{}       // closed when it has answered a message without failure
}

// A Target says which processes get a signal.
type Target int

// The targets.
const (
	Alone Target = iota // the worker's process
	Group               // every process of its group
)

// An Ask is what a worker's message channel wants of the pool.
type Ask string

// The asks.
const (
	AskRecycle Ask = "max-messages"    // it has handled its share of messages
	AskFailing Ask = "max-failures"    // it has failed at too many messages in a row
	AskTimeout Ask = "message-timeout" // it holds one message too long
	AskDetach  Ask = "detach"          // it closed its channel, and is not about to exit
	AskBroken  Ask = "protocol"        // its replies make no sense
)
