package ipc

import (
	"bytes"
	"errors"
	"fmt"

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

// withClients appends the meta of a delivery: the client's members, and then the
// pool's own, so that these are what a reader finds. Only the id of a client stays.
func withClients(to, clients, own []byte) []byte {
	own = own[1:]
	if hasID(clients) {
		own = own[bytes.IndexByte(own, ',')+1:] // the attempt follows it, always
	}
	to = append(to, bytes.TrimRight(clients[:len(clients)-1], " \t\r\n")...)
	if len(to) > 1 {
		to = append(to, ',')
	}
	to = append(to, own...)
	return to
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
