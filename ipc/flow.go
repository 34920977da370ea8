package ipc

import "time"

// MaxPriority is the highest priority of a source.
const MaxPriority = 9

// A Lane is what all flows of a source have in common. It is not changed when a
// message of it has been submitted.
type Lane struct {
	Source   *SourceStats  // counts what becomes of the messages
	Priority int           // 0 to MaxPriority: messages of a higher one go before all others
	Expires  time.Duration // a message that no worker has got by then is not delivered any more; 0: never
	// Unheard says that the senders are not told how their messages end: what could
	// be sent again is given up instead.
	Unheard bool
}

// A Flow is what the queue is fair to: the messages of one sender, such as a
// connection, a System V queue, or the spool. Of several flows with messages that
// wait, each has its turn. A Flow is a part of its owner, and must not be copied
// once a message of it was submitted.
type Flow struct {
	lane *Lane
}

// NewFlow returns a flow in a lane.
func NewFlow(lane *Lane) Flow { return Flow{lane: lane} }
