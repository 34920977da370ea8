// Package frame is the wire format: one message, or one reply, as bytes.
//
// A frame is a header and a body. The header is the length of the body, 4 bytes,
// big endian, of which the top bit does not count: it marks a failure, whose
// body is a code, ": " and a text. docs/protocol.md has the offsets, and what
// happens at each fault.
//
//	offset 0  4 bytes  bit 31: failure; bits 30 to 0: length of the body
//	offset 4  length   the body
//
// Everything that reads or writes frames does it with this package: the queue,
// a worker's channel, poolinit send, and the modules worker and client, which
// carry copies of it (tools/modules.sh). So it imports the standard library only,
// and compiles with the Go version that those modules name.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// HeaderSize is the size of a frame's header, in bytes.
const HeaderSize = 4

// failureBit marks a failure in a header.
const failureBit = 1 << 31

// failureByte is failureBit in the first byte of a header.
const failureByte = failureBit >> 24

// MaxBody is the longest body that a header has a length for, in bytes. How long
// a message may be where it is sent is for the server to say (--max-message).
const MaxBody = failureBit - 1

// MaxReply is the longest reply that a worker may give, in bytes. A longer one
// is a protocol fault.
const MaxReply = 64 << 20

// A Code says why a message failed. Clients may rely on it, never on the text.
type Code string

// The codes that a pool answers with.
const (
	Stopping    Code = "stopping"    // not handled here and never will be: send it again on a new connection
	TooBig      Code = "too-big"     // longer than --max-message
	GivenUp     Code = "given-up"    // every attempt failed
	Refused     Code = "refused"     // the worker refused it, with its own text; final
	Spooled     Code = "spooled"     // kept on disk: it is handled after the next start, do not send it again
	Interrupted Code = "interrupted" // a worker had it when time ran out: it may have been handled, or in part
	NotALine    Code = "not-a-line"  // --deliver lines, and the body has a newline
	Expired     Code = "expired"     // it waited longer than the source's expires=; no worker had it
	Retry       Code = "retry"       // the worker asks for a later attempt: "retry: 30s: text"
	NotTagged   Code = "not-tagged"  // tagged=true, and the client broke the rules of tags
)

// The codes that a worker answers with beside Refused. To the pool both are a
// failed attempt.
const (
	Failed   Code = "error" // the handler returned an error
	Panicked Code = "panic" // the handler panicked
)

// maxText is the longest text in a failure frame, in bytes.
const maxText = 4096

// ErrTooLong is the error of a frame whose header announces more than the
// reader allows. The body has not been read.
var ErrTooLong = errors.New("the frame is too long")

// AppendHeader appends the header of a frame whose body has size bytes.
func AppendHeader(to []byte, size int) []byte {
	return binary.BigEndian.AppendUint32(to, uint32(size))
}

// Append appends a frame with the given body.
func Append(to, body []byte) []byte {
	return append(AppendHeader(to, len(body)), body...)
}

// AppendFailure appends a failure frame. The text is made valid UTF-8 and cut to
// 4096 bytes.
func AppendFailure(to []byte, code Code, text string) []byte {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	to = binary.BigEndian.AppendUint32(to, uint32(len(code)+len(separator)+len(text))|failureBit)
	to = append(to, code...)
	to = append(to, separator...)
	return append(to, text...)
}

// separator stands between a failure's code and its text.
const separator = ": "

// PutHeader writes the header of a frame whose body has size bytes into the
// first HeaderSize bytes of b.
func PutHeader(b []byte, size int) { binary.BigEndian.PutUint32(b, uint32(size)) }

// Header reads the header at the start of b, which has at least HeaderSize
// bytes. The size is that of the body, and never negative.
func Header(b []byte) (size int, failed bool) {
	n := binary.BigEndian.Uint32(b)
	return int(n &^ failureBit), n&failureBit != 0
}

// Cut returns the whole frame at the start of b, header included. Without one it
// returns nil and how many bytes the frame needs, which is 0 while not even the
// header is there. The error is ErrTooLong for a body of more than limit bytes.
func Cut(b []byte, limit int) (frame []byte, need int, err error) {
	if len(b) < HeaderSize {
		return nil, 0, nil
	}
	size, _ := Header(b)
	if size > limit {
		return nil, 0, fmt.Errorf("%w: %d bytes, and the limit is %d", ErrTooLong, size, limit)
	}
	if size += HeaderSize; size > len(b) {
		return nil, size, nil
	}
	return b[:size], size, nil
}

// IsFailure reports whether a whole frame is a failure.
func IsFailure(frame []byte) bool { return frame[0]&failureByte != 0 }

// MarkFailure makes a whole frame a failure.
func MarkFailure(frame []byte) { frame[0] |= failureByte }

// ClearFailure makes a whole frame none. In a message from a client the bit has
// no meaning.
func ClearFailure(frame []byte) { frame[0] &^= failureByte }

// Body returns the body of a whole frame, which it shares.
func Body(frame []byte) []byte { return frame[HeaderSize:] }

// ParseFailure splits the body of a failure frame into its code and text. A body
// without a code is all text. Both are valid UTF-8.
func ParseFailure(body []byte) (Code, string) {
	s := string(body)
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	code, text, ok := strings.Cut(s, separator)
	if !ok || strings.ContainsAny(code, " \n") {
		return "", s
	}
	return Code(code), text
}

// firstPiece is how much memory an announced length is trusted for. What is
// announced and never sent must not cost more.
const firstPiece = 1 << 20

// Read reads one frame. It returns io.EOF at an end between two frames,
// io.ErrUnexpectedEOF at one inside of a frame, and ErrTooLong if the body has
// more than limit bytes. The body is the caller's.
func Read(r io.Reader, limit int) (body []byte, failed bool, err error) {
	var header [HeaderSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, false, err
	}
	size, failed := Header(header[:])
	if size > limit {
		return nil, failed, fmt.Errorf("%w: %d bytes, and the limit is %d", ErrTooLong, size, limit)
	}
	for body = make([]byte, 0, min(size, firstPiece)); len(body) < size; {
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
		n, err := io.ReadFull(r, body[len(body):min(cap(body), size)])
		body = body[:len(body)+n]
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, failed, err
		}
	}
	return body, failed, nil
}
