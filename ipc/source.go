package ipc

import (
	"context"
	"sync/atomic"

	"github.com/rs/zerolog"
)

// A Source brings messages to a Queue. It is a package of its own, which needs
// nothing of this one that is not exported: it makes a Delivery of each message,
// whose Origin is told how it ended, and gives them to Queue.Submit. Package
// sources has the table of all of them.
//
// A source may wait for room (Room), or leave messages where they are until a
// worker is free (Free). If it reads large messages into memory it claims them
// from the Budget first.
type Source interface {
	// Serve takes messages until Drain or Close. It returns when it takes no
	// more.
	Serve()
	// Drain stops accepting messages, but for those that have arrived already. It
	// returns when those are in the queue, or ctx is done. What arrives later is
	// refused in a way that its sender can tell.
	Drain(ctx context.Context)
	// Linger waits, after Drain, until the senders know how their messages
	// ended, or ctx is done.
	Linger(ctx context.Context)
	// Close ends the source, and waits until it has ended.
	Close()
	// Stats returns the counters of the source, always the same ones.
	Stats() *SourceStats
}

// An Opener binds the address of a source, whose parameters it knows. Nothing is
// taken before Serve. The log names the source already.
type Opener func(q *Queue, log zerolog.Logger) (Source, error)

// SourceStats counts what came from one source. All counts only grow, but for
// Connections. Those that a source has no use for stay 0.
type SourceStats struct {
	Name string // the source's URL without its parameters

	Connections      atomic.Int64  // open now
	Accepted         atomic.Uint64 // connections
	TurnedAway       atomic.Uint64 // connections over the limit or from an address that is not allowed
	CutOff           atomic.Uint64 // connections closed because their client did not read its replies
	Received         atomic.Uint64 // messages that arrived whole
	Handled          atomic.Uint64 // messages that a worker answered, and not with a failure
	Failed           atomic.Uint64 // messages that ended in a failure
	Retried          atomic.Uint64 // deliveries that failed and were repeated
	GivenUp          atomic.Uint64 // messages that failed every attempt
	Expired          atomic.Uint64 // messages that waited too long for a worker
	Spooled          atomic.Uint64 // messages that are kept for the next start
	Lost             atomic.Uint64 // messages that were not handled and are not kept
	HandshakesFailed atomic.Uint64 // of TLS
	FramesTooBig     atomic.Uint64 // messages over the limit
	FramesPartial    atomic.Uint64 // connections that ended, or were too slow, in the middle of a frame
	FramesNotTagged  atomic.Uint64 // connections that broke the rules of tags, or had tags where there are none
	Remade           atomic.Uint64 // times that the System V queue had been removed, and was made again
}

// Totals are the counts of all sources together, for the last log line.
type Totals struct {
	Handled, Failed, Spooled, Lost uint64
}
