package ipc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/poolinit/poolinit/ipc/frame"
)

// maxClientMeta leaves room for what every delivery has beside a client's meta.
const maxClientMeta = frame.MaxMeta - 1<<10

var errMetaObject = errors.New("the meta is not a JSON object")

// SetMeta gives the message a copy of its client's meta. The error says that it
// is no JSON object, or too long to be handed on; then there is none. It is for
// before Submit.
func (d *Delivery) SetMeta(meta []byte) error {
	d.meta = d.meta[:0]
	switch meta = bytes.TrimSpace(meta); {
	case len(meta) == 0:
		return nil
	case len(meta) > maxClientMeta:
		return fmt.Errorf("the meta has %d bytes, and the limit is %d", len(meta), maxClientMeta)
	case meta[0] != '{' || !json.Valid(meta):
		return errMetaObject
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
