// Package ipc brings messages from where they arrive to workers, and the
// replies back, without losing any.
//
// A message's way (docs/protocol.md has the bytes):
//
//	client -> connection's reader: every whole frame that has arrived -> Queue.Submit(batch)
//	          a worker with room? the frames go into its channel, one write for the batch
//	          none? the message waits in the queue; queue full: this reader waits
//	worker -> channel's reader: reply -> the message is settled -> into its connection, in order
//	          room again? refill from the queue first, one write; then one write a connection
//
// There is one goroutine a connection and one a worker, and no channel between
// them: the reader of one side writes to the other under a short mutex.
package ipc

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// HeaderSize is the size of a frame's header: the length of the body in bytes,
// big endian. Its top bit says that the body is a failure.
const HeaderSize = 4

// failureBit marks a failure frame.
const failureBit = 1 << 31

// MaxReply is the longest reply that a worker may give, in bytes. What claims
// to be longer is taken for garbage.
const MaxReply = 64 << 20

// A Code says why a message failed; clients may rely on it.
type Code string

// The codes.
const (
	Stopping    Code = "stopping"    // not handled here and never will be: send it again on a new connection
	TooBig      Code = "too-big"     // longer than --max-message
	GivenUp     Code = "given-up"    // every attempt failed
	Refused     Code = "refused"     // the worker will not have it, and has said so
	Spooled     Code = "spooled"     // kept on disk: it will be handled after the next start, do not send it again
	Interrupted Code = "interrupted" // a worker had it when time ran out: it may have been handled, or in part
	NotALine    Code = "not-a-line"  // --deliver lines, and the body has a newline
)

// maxFailureText is the longest text in a failure frame, in bytes.
const maxFailureText = 4096

// AppendFrame appends a frame with the given body.
func AppendFrame(to, body []byte) []byte {
	to = binary.BigEndian.AppendUint32(to, uint32(len(body)))
	return append(to, body...)
}

// AppendFailure appends a failure frame: the code, ": " and a text. The text
// is made valid UTF-8 and cut to a length that fits a terminal.
func AppendFailure(to []byte, code Code, text string) []byte {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) > maxFailureText {
		text = strings.ToValidUTF8(text[:maxFailureText], "")
	}
	to = binary.BigEndian.AppendUint32(to, uint32(len(code)+2+len(text))|failureBit)
	to = append(to, code...)
	to = append(to, ": "...)
	return append(to, text...)
}

// header reads a frame's header.
func header(b []byte) (size int, failed bool) {
	n := binary.BigEndian.Uint32(b)
	return int(n &^ failureBit), n&failureBit != 0
}

// isFailure reports whether a whole frame is a failure.
func isFailure(frame []byte) bool { return frame[0]&0x80 != 0 }

// body returns the body of a whole frame.
func body(frame []byte) []byte { return frame[HeaderSize:] }

// ParseFailure splits the body of a failure frame into its code and text. A
// body without ": " is all text.
func ParseFailure(body []byte) (Code, string) {
	s := string(body)
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	code, text, ok := strings.Cut(s, ": ")
	if !ok || strings.ContainsAny(code, " \n") {
		return "", s
	}
	return Code(code), text
}
