package output

import (
	"bytes"
	"unicode/utf8"
)

const (
	// maxPiece is the longest stretch of a line, in bytes, that is held back to wait for its end. It bounds
	// what a worker that never writes an end of line can cost.
	maxPiece = 64 << 10

	// keepRest is how much of a begun line's buffer stays for the next one. Longer lines are rare: their
	// buffer is given back, or every worker that ever printed one would cost 64 KiB for ever.
	keepRest = 1 << 10
)

// splitter cuts a byte stream into lines, and lines longer than maxPiece into pieces. Where it cuts depends
// on the stream alone, never on how reads happened to chop it.
//
// emit gets each piece without its end of line; last is false on all pieces of a line but the last. The
// bytes are the splitter's or the reader's own: emit must not keep them.
type splitter struct {
	rest []byte // the line that has begun: never more than maxPiece bytes between two calls
	emit func(piece []byte, last bool)
}

// feed takes the stream's next bytes and emits every line that they complete.
func (s *splitter) feed(data []byte) {
	for {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			break
		}
		s.endLine(data[:i])
		data = data[i+1:]
	}
	if len(data) > 0 {
		s.hold(data)
	}
}

// end emits the line that the stream left without an end; after "a\n" there is none.
func (s *splitter) end() {
	if len(s.rest) > 0 {
		s.endLine(nil)
	}
}

// endLine emits the line whose last bytes are tail.
func (s *splitter) endLine(tail []byte) {
	if len(s.rest) == 0 {
		s.pieces(tail)
		return
	}
	s.rest = append(s.rest, tail...)
	s.pieces(s.rest)
	s.rest = s.rest[:0]
	if cap(s.rest) > keepRest {
		s.rest = nil
	}
}

// pieces emits a complete line. A line of exactly maxPiece bytes is one piece.
func (s *splitter) pieces(line []byte) {
	for len(line) > maxPiece {
		n := cut(line)
		s.emit(line[:n], false)
		line = line[n:]
	}
	s.emit(line, true)
}

// hold keeps the beginning of a line, and emits what it is too long for. At least one byte stays behind, so
// that the piece which ends the line is never empty.
func (s *splitter) hold(data []byte) {
	s.rest = append(s.rest, data...)
	for len(s.rest) > maxPiece {
		n := cut(s.rest)
		s.emit(s.rest[:n], false)
		s.rest = append(s.rest[:0], s.rest[n:]...)
	}
}

// cut is where a line longer than maxPiece is cut: there, or up to three bytes earlier, so that no UTF-8
// character is torn, as JSON could not carry its halves.
func cut(line []byte) int {
	for i := maxPiece - 1; i > maxPiece-utf8.UTFMax; i-- {
		if !utf8.RuneStart(line[i]) {
			continue
		}
		if !utf8.FullRune(line[i:maxPiece]) {
			return i
		}
		break
	}
	return maxPiece
}
