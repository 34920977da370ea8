package output

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// pump moves the lines of one stream of one process to a destination. While it waits it owns a parked
// goroutine and the line that has begun, nothing else: the buffers are the destination's.
type pump struct {
	relay  *Relay
	pipes  *Pipes // for the pid
	dest   *Dest
	worker int
	stream string
	prefix string
	tail   *tail // nil: nothing of this stream is kept

	file  *os.File
	conn  syscall.RawConn
	step  func(fd uintptr) bool // attempt, bound once
	split splitter
	eof   bool
}

func newPump(pipes *Pipes, worker int, stream string, dest *Dest, file *os.File) *pump {
	p := &pump{relay: pipes.relay, pipes: pipes, dest: dest, worker: worker, stream: stream, file: file}
	p.conn, _ = file.SyscallConn() // fails only for a nil or closed file
	p.step = p.attempt
	if p.relay.mode == JSON {
		p.split.emit = p.record
	} else {
		p.prefix = fmt.Sprintf("[worker %d] ", worker)
		p.split.emit = p.marked
	}
	return p
}

// run ends when every process that holds the write end has closed it, or at the deadline that Close set.
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

// attempt reads once and delivers what it got. It returns false, to be called again when there is more, if
// there was nothing. The read happens under the destination's mutex: it cannot block, and needs no buffer
// of its own that way.
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

// read fills the destination's desk, and keeps the last of what it got.
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

// finish delivers a last line that has no end.
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

// flushIfFull bounds the batch: 64 KiB of empty lines would make megabytes of records.
func (p *pump) flushIfFull() {
	if len(p.dest.out) >= flushAt {
		p.flush()
	}
}

// marked is a line in the mode prefix: all bytes as they came.
func (p *pump) marked(piece []byte, _ bool) {
	d := p.dest
	d.out = append(d.out, p.prefix...)
	d.out = append(d.out, piece...)
	d.out = append(d.out, '\n')
	p.flushIfFull()
}

// record is a line in the mode json. It has level info but is no event of that level to zerolog: a pool that
// logs warnings only must not lose its workers' lines.
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
