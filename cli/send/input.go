package send

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/poolinit/poolinit/ipc/dial"
	"github.com/poolinit/poolinit/ipc/frame"
)

// An input cuts stdin or files into messages.
type input struct {
	o     *options
	stdin *os.File
	ch    chan []dial.Message
	batch []dial.Message // read, and not handed over
	out   *output        // it is told what cannot be read; the rest is read all the same
	next  int
}

func newInput(o *options, stdin *os.File, out *output) *input {
	return &input{o: o, stdin: stdin, out: out, ch: make(chan []dial.Message)}
}

// read reads everything, and closes the channel.
func (in *input) read() {
	defer close(in.ch)
	defer in.handOver()
	switch {
	case len(in.o.files) > 0:
		for _, name := range in.o.files {
			in.file(name)
			in.handOver()
		}
	case in.o.whole:
		in.all("", in.stdin)
	default:
		in.lines()
	}
}

func (in *input) file(name string) {
	if name == "-" {
		in.all("", in.stdin)
		return
	}
	f, err := os.Open(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w; a FILE is expected: for a text, echo hello | poolinit send ADDRESS", err)
		}
		in.out.lost(1, fmt.Sprintf("cannot read: %v", err))
		return
	}
	defer f.Close()
	in.all(name, f)
}

func (in *input) all(name string, f *os.File) {
	body, err := io.ReadAll(io.LimitReader(f, frame.MaxBody+1))
	if err != nil {
		in.out.lost(1, fmt.Sprintf("cannot read: %v", err))
		return
	}
	in.put(name, body)
}

func (in *input) lines() {
	r := bufio.NewReaderSize(in.stdin, 64<<10)
	for {
		if here, _ := r.Peek(r.Buffered()); bytes.IndexByte(here, '\n') < 0 {
			in.handOver() // the next line may be long in coming
		}
		line, err := r.ReadBytes('\n')
		if n := len(line); n > 0 {
			if line[n-1] == '\n' {
				line = line[:n-1]
			}
			in.put("", line)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				in.out.lost(1, fmt.Sprintf("cannot read stdin: %v", err))
			}
			return
		}
	}
}

func (in *input) put(name string, body []byte) {
	if len(body) > frame.MaxBody {
		in.out.lost(1, fmt.Sprintf("%s is longer than 2 GiB, for which the protocol has no length", dial.Message{Number: in.next + 1, Name: name}))
		return
	}
	for range in.o.count {
		in.next++
		in.batch = append(in.batch, dial.Message{Number: in.next, Name: name, Body: body})
		if len(in.batch) == inputBatch {
			in.handOver()
		}
	}
}

// inputBatch is how many messages are handed over at a time.
const inputBatch = 256

func (in *input) handOver() {
	if len(in.batch) > 0 {
		in.ch <- in.batch
		in.batch = nil
	}
}

// expected returns how much will be sent, as far as that is known.
func expected(o *options, stdin *os.File) (total amount) {
	if n := len(o.files); n > 0 {
		total.messages = n * o.count
	} else if fi, err := stdin.Stat(); err == nil && fi.Mode().IsRegular() && !o.whole {
		total.bytes = fi.Size() * int64(o.count)
	}
	return total
}
