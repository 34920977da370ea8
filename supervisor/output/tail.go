package output

import (
	"bytes"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// What is kept of the stderr of a worker.
const (
	tailBytes = 4 << 10
	tailLines = 20
)

// tail is the last lines that the processes of one worker printed to stderr.
type tail struct {
	mu sync.Mutex // also held from when a pump reads until that is kept: Tail finds a byte here or in the pipe
	kept
}

// kept is the last bytes of a stream, or of some that take turns.
type kept struct {
	text []byte // never more than tailBytes; nil until something is printed
	cut  bool   // it begins in the middle of a line, as far as anybody knows
	from *pump  // whose bytes are the last
}

// add keeps what p has read. The line that another process has begun ends there.
func (k *kept) add(p *pump, data []byte) {
	if len(data) == 0 {
		return
	}
	if n := len(k.text); k.from != p && n > 0 && k.text[n-1] != '\n' {
		k.push([]byte{'\n'})
	}
	k.from = p
	k.push(data)
}

func (k *kept) push(data []byte) {
	if over := len(k.text) + len(data) - tailBytes; over > 0 {
		k.cut = true
		old := min(over, len(k.text))
		k.text = append(k.text[:0], k.text[old:]...)
		data = data[over-old:]
	}
	k.text = append(k.text, data...)
}

// lines is what may be shown: whole lines, and the last one as far as it got. Of a line that alone is longer
// than all that is kept it is the end.
func (k *kept) lines() string {
	text := k.text
	if i := bytes.IndexByte(text, '\n') + 1; k.cut && i < len(text) {
		text = text[i:]
	}
	start := len(bytes.TrimSuffix(text, []byte{'\n'}))
	for n := 0; n < tailLines && start >= 0; n++ {
		start = bytes.LastIndexByte(text[:start], '\n')
	}
	return string(text[start+1:])
}

// Tail returns the last lines that the processes of a worker have printed to stderr: at most 20, and 4 KiB.
// What they have written is there, even if the destination takes nothing: it never waits for that.
func (r *Relay) Tail(worker int) string {
	if r == nil {
		return ""
	}
	t, pumps := r.tailAndPumps(worker)
	if t == nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.kept
	all.text = slices.Clone(all.text)
	for _, p := range pumps {
		all.add(p, p.peek())
	}
	return all.lines()
}

// tailAndPumps returns the tail of a worker, and the pumps that add to it.
func (r *Relay) tailAndPumps(worker int) (t *tail, pumps []*pump) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t = r.tails[worker]; t == nil {
		return nil, nil
	}
	for p := range r.pumps {
		if p.tail == t {
			pumps = append(pumps, p)
		}
	}
	return t, pumps
}

// tailOf returns the tail of a worker, and makes it the first time.
func (r *Relay) tailOf(worker int) *tail {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tails[worker]
	if t == nil {
		t = new(tail)
		r.tails[worker] = t
	}
	return t
}

// peek returns what is in the pipe, and leaves it there. Nothing, if the file is closed or no descriptors are
// left for it.
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
