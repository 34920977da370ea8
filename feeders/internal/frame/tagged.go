package frame

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// A tagged frame says which message it belongs to, so that answers may come in
// any order, and may carry what is known of the message beside its body:
//
//	offset 0    4 bytes  bit 31: failure; bit 30: there is meta; bits 29 to 0: length of all that follows
//	offset 4    8 bytes  the tag
//	offset 12   4 bytes  only with bit 30: H, the length of the meta
//	offset 16   H        only with bit 30: the meta, a JSON object
//	then                 the body
//
// Tag 0 is for control, a JSON object in the body: see Control.

// TagSize is the size of a tag, in bytes.
const TagSize = 8

// MaxTag is the highest tag: the largest integer that JavaScript has.
const MaxTag = 1<<53 - 1

// MaxMeta is the longest meta, in bytes.
const MaxMeta = 64 << 10

// MaxTaggedBody is the longest body of a tagged frame, in bytes: what 30 bits
// have a length for, less the most that can stand before it.
const MaxTaggedBody = metaBit - 128<<10

// metaBit says that a tagged frame has meta.
const metaBit = 1 << 30

// metaSize is the size of the length of the meta, in bytes.
const metaSize = 4

// MaxTaggedHeader is the most that stands before the body, but for the meta, in
// bytes.
const MaxTaggedHeader = HeaderSize + TagSize + metaSize

// The errors of a tagged frame that makes no sense. None of them can be
// recovered from on the same connection.
var (
	ErrNoTag  = errors.New("the frame is too short for a tag")
	ErrBadTag = errors.New("the tag is above 2^53-1")
	ErrMeta   = errors.New("the meta is longer than 64 KiB, or than the frame")
)

// A Tagged is a tagged frame, taken apart. Meta and Body share the bytes that
// it was cut from.
type Tagged struct {
	Tag    uint64
	Failed bool
	Meta   []byte // a JSON object; nil if there is none
	Body   []byte
}

// AppendTaggedHeader appends what stands before the body of a tagged frame:
// header, tag, and the meta if there is any.
func AppendTaggedHeader(to []byte, tag uint64, failed bool, meta []byte, size int) []byte {
	n, bits := uint32(TagSize+size), uint32(0)
	if failed {
		bits = failureBit
	}
	if len(meta) > 0 {
		n, bits = n+uint32(metaSize+len(meta)), bits|metaBit
	}
	to = binary.BigEndian.AppendUint32(to, n|bits)
	to = binary.BigEndian.AppendUint64(to, tag)
	if len(meta) > 0 {
		to = binary.BigEndian.AppendUint32(to, uint32(len(meta)))
		to = append(to, meta...)
	}
	return to
}

// AppendTagged appends a tagged frame.
func AppendTagged(to []byte, t Tagged) []byte {
	return append(AppendTaggedHeader(to, t.Tag, t.Failed, t.Meta, len(t.Body)), t.Body...)
}

// AppendTaggedFailure appends a tagged failure frame: see AppendFailure.
func AppendTaggedFailure(to []byte, tag uint64, code Code, text string) []byte {
	body := AppendFailure(nil, code, text)[HeaderSize:]
	return AppendTagged(to, Tagged{Tag: tag, Failed: true, Body: body})
}

// CutTagged takes apart the whole tagged frame at the start of b. size is that of
// the frame, or of what it needs at least while it is not there whole, which is
// 0 while not even the header is there; ok tells which. A body of more than limit
// bytes is ErrTooLong, as soon as it can be told.
func CutTagged(b []byte, limit int) (t Tagged, size int, ok bool, err error) {
	if len(b) < HeaderSize {
		return t, 0, false, nil
	}
	header := binary.BigEndian.Uint32(b)
	hasMeta := header&metaBit != 0
	n := int(header &^ (failureBit | metaBit))
	before := TagSize
	if hasMeta {
		before += metaSize
	}
	switch {
	case n < before:
		return t, 0, false, ErrNoTag
	case n-before > limit && (!hasMeta || n-before-MaxMeta > limit):
		return t, 0, false, tooLong(n-before, limit)
	}
	size = HeaderSize + n
	if len(b) < HeaderSize+before {
		return t, size, false, nil
	}
	if t.Tag = binary.BigEndian.Uint64(b[HeaderSize:]); t.Tag > MaxTag {
		return t, 0, false, ErrBadTag
	}
	t.Failed = header&failureBit != 0
	start, meta := HeaderSize+before, 0
	if hasMeta {
		h := binary.BigEndian.Uint32(b[HeaderSize+TagSize:])
		if h > MaxMeta || int(h) > n-before {
			return t, 0, false, ErrMeta
		}
		meta = int(h)
	}
	if body := n - before - meta; body > limit {
		return t, 0, false, tooLong(body, limit)
	}
	if len(b) < size {
		return t, size, false, nil
	}
	if meta > 0 {
		t.Meta = b[start : start+meta : start+meta]
	}
	t.Body = b[start+meta : size : size]
	return t, size, true, nil
}

// TagOf returns the tag of the frame at the start of b, unless it is not there yet.
// It is for a frame that CutTagged refuses.
func TagOf(b []byte) (tag uint64, ok bool) {
	if len(b) < HeaderSize+TagSize {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[HeaderSize:]), true
}

func tooLong(size, limit int) error {
	return fmt.Errorf("%w: %d bytes, and the limit is %d", ErrTooLong, size, limit)
}

// HasMeta reports whether a whole tagged frame says that it has meta, which may be
// empty.
func HasMeta(tagged []byte) bool { return tagged[0]&(metaBit>>24) != 0 }

// ReadTagged reads one tagged frame. It returns io.EOF at an end between two
// frames, io.ErrUnexpectedEOF at one inside of a frame, and the errors of
// CutTagged. The frame is the caller's.
func ReadTagged(r io.Reader, limit int) (t Tagged, err error) {
	b := make([]byte, HeaderSize, MaxTaggedHeader)
	if _, err := io.ReadFull(r, b); err != nil {
		return t, err
	}
	for {
		t, size, ok, err := CutTagged(b, limit)
		if ok || err != nil {
			return t, err
		}
		var ended error
		if b, ended = grow(r, b, size); ended != nil {
			if _, _, _, err := CutTagged(b, limit); err != nil {
				return t, err // what came says more than that it ended
			}
			return t, ended
		}
	}
}

// grow reads on until b has the size, or a piece more: an announced length is
// not trusted for more memory than has arrived.
func grow(r io.Reader, b []byte, size int) ([]byte, error) {
	next := min(size, max(MaxTaggedHeader, 2*len(b), firstPiece))
	if len(b) < MaxTaggedHeader { // first what decides about the rest
		next = min(size, MaxTaggedHeader)
	}
	have := len(b)
	if next > cap(b) {
		b = append(make([]byte, 0, next), b...)
	}
	n, err := io.ReadFull(r, b[have:next])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b[:have+n], err
}

// A Control is the body of a frame with tag 0. A member that is not set is its
// zero value; members that are not known are ignored.
type Control struct {
	Hello int    `json:"hello,omitempty"` // a client's first frame: the version of the protocol, 1
	Touch uint64 `json:"touch,omitempty"` // a worker still works on the message with this tag: its timeout starts again
	Drain bool   `json:"drain,omitempty"` // to a worker: no more messages come, and the end of the input follows
}

// AppendControl appends a control frame.
func AppendControl(to []byte, c Control) []byte {
	body, err := json.Marshal(c)
	if err != nil { // cannot be: numbers and a bool
		body = []byte("{}")
	}
	return AppendTagged(to, Tagged{Body: body})
}

// ParseControl reads the body of a control frame.
func ParseControl(body []byte) (c Control, err error) {
	if err := json.Unmarshal(body, &c); err != nil {
		return c, fmt.Errorf("a control frame that is not a JSON object: %w", err)
	}
	return c, nil
}

// Meta is what is known of a message beside its body. A field that is zero is
// not sent.
type Meta struct {
	ID       string            `json:"id,omitempty"`      // the same at each delivery
	Attempt  int               `json:"attempt,omitempty"` // counts from 1
	Source   string            `json:"source,omitempty"`
	Key      string            `json:"key,omitempty"`
	Time     time.Time         `json:"time,omitzero"`     // when it arrived
	Deadline time.Time         `json:"deadline,omitzero"` // when --message-timeout is over
	Type     string            `json:"type,omitempty"`    // of a reply: its content type
	Headers  map[string]string `json:"headers,omitempty"`
}

// ParseMeta reads meta. Members that are not known are ignored.
func ParseMeta(b []byte) (m Meta, err error) {
	if len(b) == 0 {
		return m, nil
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("meta that is not a JSON object of the known kind: %w", err)
	}
	return m, nil
}

// AppendMeta appends the JSON of the fields that every delivery has, without an
// allocation. source must be printable ASCII, as a source's name is, else it is
// left out. A zero time is left out.
func AppendMeta(to []byte, id uint64, attempt int, source string, arrived, deadline time.Time) []byte {
	to = append(to, `{"id":"`...)
	to = strconv.AppendUint(to, id, 10)
	to = append(to, `","attempt":`...)
	to = strconv.AppendInt(to, int64(attempt), 10)
	if isPlain(source) {
		to = append(to, `,"source":"`...)
		to = append(to, source...)
		to = append(to, '"')
	}
	to = appendTime(to, `,"time":"`, arrived)
	to = appendTime(to, `,"deadline":"`, deadline)
	return append(to, '}')
}

func appendTime(to []byte, name string, at time.Time) []byte {
	if at.IsZero() {
		return to
	}
	to = append(to, name...)
	to = at.UTC().AppendFormat(to, time.RFC3339) // this layout is much faster than one of one's own
	ms := at.Nanosecond() / int(time.Millisecond)
	to[len(to)-1] = '.'
	return append(to, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z', '"')
}

// isPlain reports whether a string is the same inside of JSON's quotes.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return s != ""
}
