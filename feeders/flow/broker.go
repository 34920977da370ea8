package flow

import (
	"context"
	"errors"
	"time"

	"github.com/poolinit/poolinit/feeders/link"
)

// A Broker is where messages come from, as its URL says: checked, and not connected.
// It holds what outlives a connection, such as the name of this consumer.
type Broker interface {
	// Traits say what the broker can do. They do not change.
	Traits() Traits
	// Connect makes a connection, with a new client each time: what a library
	// heals by itself may be half healed. It reads the files with secrets again.
	Connect(ctx context.Context) (Session, error)
}

// A Session is a connection to a broker. Flow calls each method on a goroutine of its
// own, never one method twice at the same time, but different ones at the same time.
//
// Each call has a deadline. An error other than those of single outcomes means that the
// session is of no use any more: Flow closes it, and connects again. A call that
// does not return by then is left alone.
type Session interface {
	// Pull takes 1 to limit messages. Without any it waits for one, at most until ctx
	// is done, and returns none. What it has taken it returns, also beside an
	// error, and after ctx is done. It holds no lock that a callback of the library needs.
	Pull(ctx context.Context, limit int) ([]*Message, error)
	// Settle tells the broker what became of messages, and returns when the broker
	// has confirmed it. It may be called again with the same outcomes, on this session or
	// another one, so it must do no harm then. A message that is this feeder's
	// no more is passed over. What fails for one message alone goes into its Outcome's Err.
	// Messages that are given back come newest first.
	Settle(ctx context.Context, outcomes []*Outcome) error
	// Keep tells the broker that these messages are still worked on.
	Keep(ctx context.Context, messages []*Message) error
	// Lag counts what waits at the broker.
	Lag(ctx context.Context) (Lag, error)
	// Close gives back what was taken ahead and not returned by Pull, and takes leave.
	Close(ctx context.Context) error
}

// An Owner is a Broker that can lose messages while it has them: the partition is
// revoked, the channel is closed. Flow asks before it hands such a message on. Owns
// does not wait.
type Owner interface {
	Owns(m *Message) bool
}

// Lag is what waits at a broker.
type Lag struct {
	Messages int64
	// MaxPartition is the most that waits in one partition; -1 if there are none.
	MaxPartition int64
}

// ErrNoLag says that the broker cannot count what waits.
var ErrNoLag = errors.New("the broker does not tell how many messages wait")

// Traits are what a broker can do.
type Traits struct {
	Keys       bool // messages may have a key: order=key
	Partitions bool // messages have a partition: order=partition
	// Delays: the broker waits before a next attempt by itself and counts it, so
	// that Settle takes Delayed for any delay, and the message comes again by Pull.
	Delays bool
	// Parks: Settle takes Delayed, at a price: only for long delays.
	Parks bool
	// KeepEvery is how often Keep is called while messages are in hand; 0: never.
	KeepEvery time.Duration
	// Info is for poolinit_feed_info: broker, library.
	Info map[string]string
}

// A Message is one that a broker has delivered.
type Message struct {
	// ID is the same at each delivery. With "" deliveries of the same message cannot be
	// told, and are not merged.
	ID      string
	Body    []byte
	Key     string
	Lane    string // what order=partition goes by
	Attempt int    // counts deliveries from 1, as far as the broker can
	Queue   string // where it was taken from
	Time    time.Time
	Headers map[string]string
	// More are further members of the meta, in JSON: `"partition":3,"offset":99`.
	More string

	Redelivered bool // the broker says that it has delivered it before
	TakenOver   bool // of a consumer that has died
	Alone       bool // it may have killed a pool, and the broker cannot count: nothing else goes beside it
	ReplyTo     bool // it names where a reply goes

	// Receipt is the broker's: what Settle needs. A later delivery's takes the place
	// of an earlier one's.
	Receipt any
}

// An Action is what Settle does with a message.
type Action int

const (
	Ack     Action = iota // done: publish the Reply if there is one, then acknowledge
	Return                // give back for somebody else to take now
	Dead                  // publish a dead letter, wait for the confirmation, then acknowledge
	Delayed               // give back, to be delivered after Delay as attempt Attempt
	Note                  // keep it, and note that Attempt comes next, where the broker can
)

// An Outcome is what became of a message.
type Outcome struct {
	Message *Message
	Action  Action

	Reply     []byte // of Ack: nil: none is due
	ReplyType string // its content type

	// Counted: of Return: a worker may have had it. Where the broker counts
	// deliveries, this one counts.
	Counted bool

	Reason   link.Code // of Dead
	Text     string    // of Dead and Delayed: what the worker said
	Attempts int       // of Dead: how many there were; of Delayed and Note: which one comes next
	Delay    time.Duration

	// Err is for Settle to set: this outcome alone failed, and is tried again later.
	Err error

	entry *entry
}

// Exhausted is the reason of a dead letter that has failed all its attempts.
const Exhausted link.Code = "attempts"
