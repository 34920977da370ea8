package send

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
)

// A parcel is a message to be sent.
type parcel struct {
	number int    // from 1
	name   string // of its file, if it has one
	body   []byte
}

func (p parcel) String() string {
	if p.name != "" {
		return p.name
	}
	return fmt.Sprintf("message %d", p.number)
}

// A sendInput makes messages of stdin or files.
type sendInput struct {
	o     *sendOptions
	stdin *os.File
	ch    chan []parcel
	batch []parcel    // read, and not handed over
	out   *sendOutput // told of what cannot be read; the rest is read all the same
	next  int
}

func newSendInput(o *sendOptions, stdin *os.File, out *sendOutput) *sendInput {
	return &sendInput{o: o, stdin: stdin, out: out, ch: make(chan []parcel)}
}

// read reads everything, and closes the channel.
func (in *sendInput) read() {
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

func (in *sendInput) file(name string) {
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

func (in *sendInput) all(name string, f *os.File) {
	body, err := io.ReadAll(io.LimitReader(f, maxBody+1))
	if err != nil {
		in.out.lost(1, fmt.Sprintf("cannot read: %v", err))
		return
	}
	in.put(name, body)
}

func (in *sendInput) lines() {
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

// maxBody is the longest that the protocol has a length for.
const maxBody = math.MaxInt32

func (in *sendInput) put(name string, body []byte) {
	if len(body) > maxBody {
		in.out.lost(1, fmt.Sprintf("%s is longer than 2 GiB, for which the protocol has no length", parcel{in.next + 1, name, nil}))
		return
	}
	for range in.o.count {
		in.next++
		in.batch = append(in.batch, parcel{in.next, name, body})
		if len(in.batch) == inputBatch {
			in.handOver()
		}
	}
}

// inputBatch is how many messages are handed over at a time.
const inputBatch = 256

func (in *sendInput) handOver() {
	if len(in.batch) > 0 {
		in.ch <- in.batch
		in.batch = nil
	}
}

// expect tells how much there is, if that is known.
func (in *sendInput) expect() {
	if n := len(in.o.files); n > 0 {
		in.out.total.messages = n * in.o.count
		return
	}
	if fi, err := in.stdin.Stat(); err == nil && fi.Mode().IsRegular() && !in.o.whole {
		in.out.total.bytes = fi.Size() * int64(in.o.count)
	}
}
