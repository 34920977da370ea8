package ipc

import (
	"time"

	"github.com/poolinit/poolinit/reaper/awake"
)

// A Config says how a Queue delivers. But for the functions its fields are the
// flags of the same names.
type Config struct {
	QueueMessages  int           // that wait in memory, at most
	QueueBytes     int           // of those
	ReplyBytes     int           // of replies that wait for their clients; 0: DefaultBytes
	MaxMessage     int           // bytes
	Format         Format        // of what workers read and write (--deliver)
	Window         int           // messages on the way to one worker, beyond Concurrency-1; 0: auto, and for Lines 1
	Concurrency    int           // messages that a worker handles at the same time, with Tagged; 0: 1
	Attempts       int           // deliveries of one message
	MessageTimeout time.Duration // for one message in a worker's hands; 0: none
	MaxMessages    int           // after which a worker is replaced, +-10 %; 0: never
	RetryDelay     time.Duration // before a third delivery, doubled for each one after it, +-20 %; 0: none
	RetryDelayMax  time.Duration // the longest of these
	MaxFailures    int           // failures that a worker answers in a row, after which it is replaced; 0: never

	// Awake says whether this program has slept while a message timeout passed. It
	// may be nil.
	Awake *awake.Watch
	// Spool keeps a message that is not handled before the end, and calls done
	// once, from any goroutine, when it is on the disk or will not be: the client
	// is told then. Nil: there is no spool.
	Spool func(d *Delivery, done func(kept bool))
	// GivenUp is told of each message that failed every attempt, from any goroutine,
	// and calls done once, from any goroutine: the client is told then. It may be
	// nil.
	GivenUp func(d *Delivery, reason string, done func())
}

// DefaultBytes is what QueueBytes and ReplyBytes are where memory is not limited.
const DefaultBytes = 64 << 20

// A Format is that of the messages and replies on a worker's socket.
type Format int

// The formats.
const (
	Frames Format = iota
	Tagged
	Lines
)
