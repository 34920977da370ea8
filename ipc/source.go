package ipc

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"
)

// A Source brings messages to a queue. To add one, write a file with a type
// that implements this, and name its scheme in Open and in URL.address.
//
// Bound by Open, it takes messages from Serve on. Messages are given to
// Queue.Submit as Deliveries whose Origin the source provides.
type Source interface {
	// Serve takes messages until Drain or Close. It returns when it takes no
	// more.
	Serve()
	// Drain stops taking messages, but for those that have arrived already. It
	// returns when those are in the queue, or ctx is done. What arrives later
	// is turned away, in a way that its sender can tell.
	Drain(ctx context.Context)
	// Linger waits, after Drain, until the senders know how their messages
	// ended, or ctx is done.
	Linger(ctx context.Context)
	// Close ends the source, and waits until it has.
	Close()
	Stats() *SourceStats
}

// Open binds the address of a source. Nothing is taken before Serve.
func Open(u *URL, q *Queue, log zerolog.Logger) (Source, error) {
	log = log.With().Str("source", u.Name).Logger()
	switch u.Scheme {
	case "tcp":
		return openTCP(u, q, log)
	case "unix":
		return openUnix(u, q, log)
	case "sysv":
		return openSysV(u, q, log)
	}
	return nil, fmt.Errorf("cannot listen on %s: no such source", u.Name)
}
