package ipc

import "sync/atomic"

// SourceStats counts what came from one source. All counts only grow, but for
// Connections.
type SourceStats struct {
	Name string // the source's URL without its parameters

	Connections      atomic.Int64  // open now
	Accepted         atomic.Uint64 // connections
	TurnedAway       atomic.Uint64 // connections over the limit or from an address that is not allowed
	Received         atomic.Uint64 // messages that arrived whole
	Handled          atomic.Uint64 // messages that a worker answered, and not with a failure
	Failed           atomic.Uint64 // messages that ended in a failure
	Retried          atomic.Uint64 // deliveries that failed and were repeated
	GivenUp          atomic.Uint64 // messages that failed every attempt
	Spooled          atomic.Uint64
	Lost             atomic.Uint64 // messages whose client could not even be told
	HandshakesFailed atomic.Uint64 // of TLS
	FramesTooBig     atomic.Uint64
	Remade           atomic.Uint64 // times that somebody had removed the System V queue, and it was made again
	FramesPartial    atomic.Uint64 // connections that ended, or were too slow, in the middle of a frame
}

// Totals are the counts of all sources together, for the last log line.
type Totals struct {
	Handled, Failed, Spooled, Lost uint64
}
