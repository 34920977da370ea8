package output

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// A pump moves the lines of one stream of one process to a destination. While it
// waits it owns a parked goroutine and the line that has begun. The buffers are the
// destination's.
type pump struct {
	relay  *Relay
	pipes  *Pipes // for the PID
	dest   *Dest
	worker int
	stream string
	prefix string
	tail   *tail // nil: the end of this stream is not kept

	file  *os.File
	conn  syscall.RawConn
	step  func(fd uintptr) bool // attempt, bound once
	split splitter
	eof   bool
}

func newPump(pipes *Pipes, worker int, stream string, dest *Dest, file *os.File, keep *tail) *pump {
	p := &pump{relay: pipes.relay, pipes: pipes, dest: dest, worker: worker, stream: stream, file: file, tail: keep}
	p.conn, _ = file.SyscallConn() // fails only for a nil or closed file
	p.step = p.attempt
	if p.relay.mode == JSON {
		p.split.emit = p.record
	} else {
		p.prefix = fmt.Sprintf("[worker %d] ", worker)
		p.split.emit = p.prefixed
	}
	return p
}

// run ends when every process that holds the write end has closed it, or at the
// deadline that Relay.Close set.
func (p *pump) run() {
	for !p.eof {
		if p.conn.Read(p.step) != nil {
			break
		}
	}
	p.finish()
	_ = p.file.Close()
	p.relay.ended(p, p.eof)
}

// attempt reads once and delivers the lines. If there was nothing to read it returns
// false, and is called again when there is. It reads under the destination's mutex:
// the read cannot block, and so it needs no buffer of its own.
func (p *pump) attempt(fd uintptr) bool {
	d := p.dest
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := p.read(int(fd))
	if err == unix.EAGAIN {
		return false
	}
	if p.eof = n <= 0; p.eof { // a read error of a pipe has no cure either
		return true
	}
	d.stamp = time.Now().AppendFormat(d.stamp[:0], timeLayout)
	p.split.feed(d.in[:n])
	p.flush()
	return true
}

// read fills the destination's buffer, and keeps the end of what it got.
func (p *pump) read(fd int) (n int, err error) {
	if p.tail == nil {
		return p.dest.fill(fd)
	}
	p.tail.mu.Lock()
	defer p.tail.mu.Unlock()
	n, err = p.dest.fill(fd)
	p.tail.add(p, p.dest.in[:max(n, 0)])
	return n, err
}

// peek returns the bytes that are in the pipe, and leaves them there. It returns
// none if the file is closed, or if no descriptors are left.
func (p *pump) peek() (data []byte) {
	_ = p.conn.Control(func(fd uintptr) {
		var copied [2]int
		if unix.Pipe2(copied[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
			return
		}
		defer unix.Close(copied[0])
		defer unix.Close(copied[1])
		n, _ := unix.Tee(int(fd), copied[1], readSize, unix.SPLICE_F_NONBLOCK)
		data = make([]byte, max(n, 0))
		got, _ := unix.Read(copied[0], data)
		data = data[:max(got, 0)]
	})
	return data
}

// finish delivers a last line that has no end of line.
func (p *pump) finish() {
	p.dest.mu.Lock()
	defer p.dest.mu.Unlock()
	p.dest.stamp = time.Now().AppendFormat(p.dest.stamp[:0], timeLayout)
	p.split.end()
	p.flush()
}

func (p *pump) flush() {
	p.relay.lost.Add(uint64(p.dest.flush()))
}

// flushIfFull bounds the batch: 64 KiB of empty lines would make megabytes of
// records.
func (p *pump) flushIfFull() {
	if len(p.dest.out) >= flushAt {
		p.flush()
	}
}

// prefixed adds a line in the mode prefix. All bytes stay as they are.
func (p *pump) prefixed(piece []byte, _ bool) {
	d := p.dest
	d.out = append(d.out, p.prefix...)
	d.out = append(d.out, piece...)
	d.out = append(d.out, '\n')
	p.flushIfFull()
}

// record adds a line in the mode json. It says level info, but is not an event of
// that level to zerolog: a pool that logs only warnings must not lose the lines of
// its workers.
func (p *pump) record(piece []byte, last bool) {
	if n := len(piece); last && n > 0 && piece[n-1] == '\r' {
		piece = piece[:n-1]
	}
	e := p.dest.log.Log().
		Str(zerolog.LevelFieldName, zerolog.LevelInfoValue).
		RawJSON(zerolog.TimestampFieldName, p.dest.stamp).
		Int("worker", p.worker)
	if pid := p.pipes.pid.Load(); pid != 0 {
		e.Int64("pid", pid)
	}
	e.Str("stream", p.stream)
	if !last {
		e.Bool("partial", true)
	}
	e.Bytes(zerolog.MessageFieldName, piece).Send()
	p.flushIfFull()
}

const (
	// maxPiece is the longest part of a line, in bytes, that is held back until its
	// end arrives. It bounds the memory for a worker that never writes an end of line.
	maxPiece = 64 << 10

	// keepRest is the size up to which the buffer of an unfinished line is kept for
	// the next one. Longer lines are rare: if their buffer were kept, every worker that
	// ever printed one would hold 64 KiB for ever.
	keepRest = 1 << 10
)

// A splitter cuts a byte stream into lines, and lines longer than maxPiece into
// pieces. Where it cuts depends on the stream alone, not on the sizes of the reads.
//
// emit gets each piece without its end of line. last is true for the last piece of a
// line. The bytes are the splitter's or the reader's own: emit must not keep them.
type splitter struct {
	rest []byte // the unfinished line: at most maxPiece bytes between two calls
	emit func(piece []byte, last bool)
}

// feed takes the next bytes of the stream and emits every line that they complete.
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

// end emits a line that the stream left without an end of line. After "a\n" there is
// none.
func (s *splitter) end() {
	if len(s.rest) > 0 {
		s.endLine(nil)
	}
}

// endLine emits the line whose last bytes are ending.
func (s *splitter) endLine(ending []byte) {
	if len(s.rest) == 0 {
		s.pieces(ending)
		return
	}
	s.rest = append(s.rest, ending...)
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

// hold keeps the beginning of a line, and emits pieces of it while it is too long. At
// least one byte is held back, so that the piece that ends the line is never empty.
func (s *splitter) hold(data []byte) {
	s.rest = append(s.rest, data...)
	for len(s.rest) > maxPiece {
		n := cut(s.rest)
		s.emit(s.rest[:n], false)
		s.rest = append(s.rest[:0], s.rest[n:]...)
	}
}

// cut returns where a line longer than maxPiece is cut: at maxPiece, or up to three
// bytes earlier, so that no UTF-8 character is torn. JSON could not carry its halves.
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
