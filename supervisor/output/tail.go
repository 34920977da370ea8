package output

import (
	"bytes"
	"sync"
)

// How much is kept of the stderr of a worker.
const (
	tailBytes = 4 << 10
	tailLines = 20
)

// A tail is the last lines that the processes of one worker have printed to stderr.
type tail struct {
	mu sync.Mutex // held from a pump's read until the bytes are kept: a byte is here or in the pipe
	kept
}

// kept is the last bytes of a stream, or of several that take turns.
type kept struct {
	text []byte // never more than tailBytes; nil until something is printed
	cut  bool   // it may begin in the middle of a line
	from *pump  // that the last bytes are from
}

// add keeps the bytes that p has read. A line that another process has begun ends
// there.
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

// lines returns the whole lines, and the last one as far as it has been printed. If
// one line is longer than everything that is kept, it returns the end of that line.
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
