package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/poolinit/poolinit/worker/internal/frame"
)

// A Message is what a client has sent.
type Message struct {
	Body   []byte
	Worker *Worker

	// ReplyType is for the handler to set: the content type of the reply, such as
	// "application/json". It needs --deliver tagged, and only a client that speaks
	// tagged frames gets it.
	ReplyType string

	tag    uint64
	coded  []byte // the meta, in JSON
	parsed *Meta  // nil: not yet
	kept   []byte // the bytes of both, if they are the message's own
}

// Meta is what poolinit knows of a message beside its body. What is not known is
// zero.
type Meta struct {
	ID       string // the client's, otherwise poolinit's number of it; the same at each delivery
	Attempt  int    // counts the deliveries, from 1
	Source   string // the URL of the source, without parameters
	Key      string // the client's
	Time     time.Time
	Deadline time.Time         // when --message-timeout is over; Touch moves it on
	Headers  map[string]string // the client's
}

// Meta returns what is known of the message. Without --deliver tagged that is
// nothing. It is parsed at the first call.
func (m *Message) Meta() Meta {
	if m.parsed == nil {
		p, _ := frame.ParseMeta(m.coded) // what poolinit sends is an object
		m.parsed = &Meta{ID: p.ID, Attempt: p.Attempt, Source: p.Source, Key: p.Key,
			Time: p.Time, Deadline: p.Deadline, Headers: p.Headers}
	}
	return *m.parsed
}

// ErrNoTouch is the error of Touch without --deliver tagged.
var ErrNoTouch = errors.New("worker: only with --deliver tagged poolinit can be told that a message takes longer")

// Touch says that the handler still works on the message: --message-timeout begins
// again. It needs --deliver tagged.
func (m *Message) Touch() error {
	if m.Worker.format != formatTagged {
		return ErrNoTouch
	}
	m.Worker.dog.moved()
	return m.Worker.out.touch(m.tag)
}

// Detach answers the message and leaves the pool, as Worker.Detach does.
func (m *Message) Detach(reply []byte) error { return m.Worker.detach(m, reply) }

// set makes it the message of an item, whose bytes it shares.
func (m *Message) set(w *Worker, i item) {
	*m = Message{Body: i.body, Worker: w, tag: i.tag, coded: i.meta}
}

// answer returns what goes out for what the handler has returned.
func (m *Message) answer(reply []byte, err error) answer {
	var meta []byte
	if err == nil && m.ReplyType != "" && m.Worker.format == formatTagged {
		meta, err = typeMeta(m.ReplyType)
	}
	if err == nil && len(reply) > frame.MaxReply {
		err = fmt.Errorf("the reply has %d bytes, and poolinit takes %d", len(reply), frame.MaxReply)
	}
	if err != nil {
		code, text := failureOf(err)
		return answer{tag: m.tag, failed: true, body: frame.Body(frame.AppendFailure(nil, code, text))}
	}
	return answer{tag: m.tag, meta: meta, body: reply}
}

// maxType is the longest content type, in bytes.
const maxType = 4096

func typeMeta(contentType string) ([]byte, error) {
	if len(contentType) > maxType {
		return nil, fmt.Errorf("the type of the reply has %d bytes, and the limit is %d", len(contentType), maxType)
	}
	return json.Marshal(frame.Meta{Type: contentType})
}

// Refuse returns an error that makes a message's failure final: it is not
// delivered again, and text goes to its client.
func Refuse(text string) error { return refusal{text} }

// Retry returns an error that is a failed attempt: the message is delivered again
// after just this time. If it has had all its attempts, or poolinit does not wait
// that long, its client is told.
func Retry(after time.Duration, text string) error { return delay{max(after, 0), text} }

type refusal struct{ text string }

func (r refusal) Error() string { return r.text }

type delay struct {
	after time.Duration
	text  string
}

func (d delay) Error() string { return d.text }

type panicked struct{ text string }

func (p panicked) Error() string { return p.text }

// failureOf returns what a handler's error is on the wire.
func failureOf(err error) (frame.Code, string) {
	var (
		refused refusal
		retry   delay
		crash   panicked
	)
	switch {
	case errors.As(err, &refused):
		return frame.Refused, err.Error()
	case errors.As(err, &retry):
		return frame.Retry, retry.after.String() + ": " + err.Error()
	case errors.As(err, &crash):
		return frame.Panicked, err.Error()
	}
	return frame.Failed, err.Error()
}
