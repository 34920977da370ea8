package ipc

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
)

// maxClientMeta leaves room for what every delivery has beside a client's meta.
const maxClientMeta = frame.MaxMeta - 1<<10

var errMetaObject = errors.New("the meta is not a JSON object")

// SetMeta gives the message a copy of its client's meta. The error says that it
// is no JSON object, has a known member of another type, or is too long to be
// handed on; then there is none. It is for
// before Submit.
func (d *Delivery) SetMeta(meta []byte) error {
	d.meta = d.meta[:0]
	switch meta = bytes.TrimSpace(meta); {
	case len(meta) == 0:
		return nil
	case len(meta) > maxClientMeta:
		return fmt.Errorf("the meta has %d bytes, and the limit is %d", len(meta), maxClientMeta)
	case meta[0] != '{':
		return errMetaObject
	}
	if _, err := frame.ParseMeta(meta); err != nil {
		return err // a worker could not read it either
	}
	d.meta = append(d.meta, meta...)
	return nil
}

// Meta returns the client's meta, or nothing. It is valid until the message is
// settled.
func (d *Delivery) Meta() []byte {
	if d.hasReplyMeta {
		return nil
	}
	return d.meta
}

// ReplyMeta returns the meta of the worker's reply, or nothing. It is for
// Origin.Settled, and valid until Release.
func (d *Delivery) ReplyMeta() []byte {
	if !d.hasReplyMeta {
		return nil
	}
	return d.meta
}

// setReplyMeta keeps a copy of the reply's meta. The client's is not needed any
// more.
func (d *Delivery) setReplyMeta(meta []byte) {
	d.meta, d.hasReplyMeta = append(d.meta[:0], meta...), true
}

// SetTag notes the number by which the client knows the message. It is for
// before Submit.
func (d *Delivery) SetTag(tag uint64) { d.tag = tag }

// Tag returns what SetTag has noted.
func (d *Delivery) Tag() uint64 { return d.tag }

// taggedHeads makes what stands before the body of a tagged frame, one after the
// other in the same memory. Messages that arrived together differ in few bytes.
type taggedHeads struct {
	meta, head []byte

	rest     []byte // of the pool's meta, behind the attempt
	source   *SourceStats
	arrived  time.Duration
	deadline time.Duration // 0: none
}

// of returns the head of a message. It is valid until the next call.
func (h *taggedHeads) of(d *Delivery, deadline time.Duration) []byte {
	if d.source != h.source || d.arrived != h.arrived || deadline != h.deadline {
		h.prepare(d, deadline)
	}
	h.meta = h.meta[:0]
	clients := d.Meta()
	if len(clients) > 0 {
		h.meta = append(h.meta, bytes.TrimRight(clients[:len(clients)-1], " \t\r\n")...)
		if len(h.meta) > 1 {
			h.meta = append(h.meta, ',')
		}
	} else {
		h.meta = append(h.meta, '{')
	}
	if len(clients) == 0 || !hasID(clients) { // otherwise the client's stays
		h.meta = append(h.meta, `"id":"`...)
		h.meta = strconv.AppendUint(h.meta, d.id, 10)
		h.meta = append(h.meta, `",`...)
	}
	h.meta = append(h.meta, `"attempt":`...)
	h.meta = strconv.AppendInt(h.meta, int64(d.attempts+1), 10)
	h.meta = append(h.meta, h.rest...) // the pool's members come last: a reader takes them
	h.head = frame.AppendTaggedHeader(h.head[:0], d.number, false, h.meta, len(d.Body()))
	return h.head
}

// prepare makes what the messages have in common that arrived with this one.
func (h *taggedHeads) prepare(d *Delivery, deadline time.Duration) {
	h.source, h.arrived, h.deadline = d.source, d.arrived, deadline
	var until time.Time
	if deadline > 0 {
		until = epoch.Add(deadline)
	}
	const before = `{"id":"0","attempt":0`
	h.rest = frame.AppendMeta(h.rest[:0], 0, 0, d.source.Name, d.Arrived(), until)
	h.rest = append(h.rest[:0], h.rest[len(before):]...)
}

// hasID reports whether a JSON object has a member "id" that is a string.
func hasID(object []byte) bool {
	depth, isKey := 0, false
	for i := 0; i < len(object); i++ {
		switch object[i] {
		case '{', '[':
			depth++
			isKey = object[i] == '{'
		case '}', ']':
			depth--
			isKey = false
		case ',':
			isKey = true
		case ':':
			isKey = false
		case '"':
			end := stringEnd(object, i)
			if depth == 1 && isKey && string(object[i:end]) == `"id"` {
				value := bytes.TrimLeft(object[end:], " \t\r\n:")
				return len(value) > 0 && value[0] == '"'
			}
			i = end - 1
		}
	}
	return false
}

// stringEnd returns where the JSON string ends that begins at i.
func stringEnd(b []byte, i int) int {
	for i++; i < len(b) && b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return min(i+1, len(b))
}
