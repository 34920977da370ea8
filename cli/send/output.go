package send

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/poolinit/poolinit/cli/terminal"
	"github.com/poolinit/poolinit/ipc/dial"
)

// An amount is how much is sent in all. 0 is not known.
type amount struct {
	messages int
	bytes    int64
}

// An output writes replies and failures, counts, and shows how far it is. It is
// the dial.Output of a stream.
type output struct {
	name   string // of the pool
	raw    bool
	plain  bool // the connection is TCP without TLS
	total  amount
	stdout *bufio.Writer
	stderr *os.File
	bar    bool // stderr is a terminal, where the progress can be shown
	same   bool // stdout is one too, perhaps the same

	mu       sync.Mutex
	began    time.Time
	sent     int
	bytes    int64
	answered int
	failed   int
	shown    bool
	done     chan struct{}
	drawer   sync.WaitGroup
}

func newOutput(o *options, total amount, stdout, stderr *os.File) *output {
	return &output{name: o.to.Name, raw: o.raw, plain: !o.tls && o.to.Scheme == "tcp", total: total,
		stdout: bufio.NewWriterSize(stdout, 64<<10), stderr: stderr,
		bar: terminal.Is(int(stderr.Fd())), same: terminal.Is(int(stdout.Fd())), began: time.Now(), done: make(chan struct{})}
}

// Sending counts a message that is sent.
func (out *output) Sending(m dial.Message) {
	out.mu.Lock()
	defer out.mu.Unlock()
	out.sent++
	out.bytes += int64(len(m.Body)) + 1 // and its end of line
}

// NotTaken takes messages that will be sent again out of the counts.
func (out *output) NotTaken(list []dial.Message) {
	out.mu.Lock()
	defer out.mu.Unlock()
	for _, m := range list {
		out.sent--
		out.bytes -= int64(len(m.Body)) + 1
	}
}

// Reply writes a reply, and an end of line if it has none. It is seen after Flush.
func (out *output) Reply(body []byte) {
	out.mu.Lock()
	defer out.mu.Unlock()
	out.answered++
	_, _ = out.stdout.Write(body) // a broken pipe ends the program; close reports other errors
	if !out.raw && !bytes.HasSuffix(body, []byte{'\n'}) {
		_ = out.stdout.WriteByte('\n')
	}
}

// Failed reports a message that failed.
func (out *output) Failed(m dial.Message, f *dial.Failure) {
	out.lost(1, fmt.Sprintf("%s: %v", m, f))
}

// Lost reports messages of which it is not known whether they were handled.
func (out *output) Lost(l dial.Loss) {
	hint := out.perhapsTLS(l.Heard)
	why := l.Err.Error()
	switch l.Err {
	case dial.ErrNoReply:
		out.lost(1, fmt.Sprintf("%s: the server closed the connection without a reply%s", l.First, hint))
		return
	case dial.ErrWhichTooBig:
		out.lost(l.Count, fmt.Sprintf("%s: a message from %s to %s was too big, and those after it were dropped: %d may be lost (--reply would send them again)",
			out.name, l.First, l.Last, l.Count))
		return
	case io.EOF:
		why = "the server closed it early (if its URL has once=true, ADDRESS needs it too)"
	}
	out.lost(l.Count, fmt.Sprintf("%s: the connection ended: %s%s; from %s to %s, %d had no reply and may be lost (--reply would send them again)",
		out.name, why, hint, l.First, l.Last, l.Count))
}

// perhapsTLS is what may be wrong if a server closed and has never said anything.
func (out *output) perhapsTLS(heard bool) string {
	if !out.plain || heard {
		return ""
	}
	return "; it may want TLS: --tls or --ca FILE"
}

// gaveUp says where the sending ended. The rest of the input is not read.
func (out *output) gaveUp(u *dial.Unsent) {
	text := out.name + ": " + u.Error()
	_, noTLS := errors.AsType[tls.RecordHeaderError](u.Err)
	switch {
	case u.Err == dial.ErrMute:
		text += ": --reply is for one with reply=always in its URL" + out.perhapsTLS(u.Heard)
	case u.Err == dial.ErrNotTaken:
		text += out.perhapsTLS(u.Heard)
	case u.Err == dial.ErrSilent:
		text = out.name + ": nothing was received within --timeout"
	case noTLS:
		text += " (the server does not speak TLS: does its --listen have cert=?)"
	}
	switch {
	case !u.Connected:
		text += "; nothing was sent"
	case len(u.Messages) > 0:
		text += fmt.Sprintf("; from %s on no message is known to be handled", u.Messages[0])
	}
	out.lost(max(1, len(u.Messages)), text)
}

// lost reports this many messages at once.
func (out *output) lost(n int, text string) {
	out.mu.Lock()
	defer out.mu.Unlock()
	out.failed += n
	out.hide()
	fmt.Fprintln(out.stderr, "poolinit: "+terminal.Printable(text))
}

// Flush shows the replies.
func (out *output) Flush() { _ = out.flush() } // the writer keeps its error for close

func (out *output) flush() error {
	out.mu.Lock()
	defer out.mu.Unlock()
	if out.same && out.stdout.Buffered() > 0 {
		out.hide()
	}
	return out.stdout.Flush()
}

// After barAfter the progress is shown, every barEvery.
const barAfter, barEvery = time.Second, 100 * time.Millisecond

// show draws the progress on the terminal until close.
func (out *output) show() {
	if !out.bar {
		return
	}
	out.drawer.Go(func() {
		ticker := time.NewTicker(barEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				out.draw(time.Now())
			case <-out.done:
				return
			}
		}
	})
}

func (out *output) draw(now time.Time) {
	out.mu.Lock()
	defer out.mu.Unlock()
	if now.Sub(out.began) >= barAfter {
		out.shown = true
		fmt.Fprint(out.stderr, "\r"+out.line(now.Sub(out.began))+"\x1b[K")
	}
}

func (out *output) hide() {
	if out.shown {
		out.shown = false
		fmt.Fprint(out.stderr, "\r\x1b[K")
	}
}

// line is shorter than any terminal is wide.
func (out *output) line(took time.Duration) string {
	var b strings.Builder
	share := -1.0
	switch {
	case out.total.messages > 0:
		share = float64(out.sent) / float64(out.total.messages)
	case out.total.bytes > 0:
		share = float64(out.bytes) / float64(out.total.bytes)
	}
	if share >= 0 {
		share = min(share, 1)
		n := int(share * 20)
		fmt.Fprintf(&b, "[%s%s] %3.0f %% ", strings.Repeat("#", n), strings.Repeat(".", 20-n), share*100)
	}
	fmt.Fprintf(&b, "%d sent, %d replies", out.sent, out.answered)
	if out.failed > 0 {
		fmt.Fprintf(&b, ", %d failed", out.failed)
	}
	fmt.Fprintf(&b, ", %.0f/s", float64(out.sent)/took.Seconds())
	return b.String()
}

// close writes what is left and returns the exit code.
func (out *output) close() int {
	close(out.done)
	out.drawer.Wait()
	err := out.flush()
	out.mu.Lock()
	defer out.mu.Unlock()
	out.hide()
	if err != nil {
		fmt.Fprintf(out.stderr, "poolinit: cannot write the replies: %v\n", err)
	}
	if err != nil || out.failed > 0 {
		return exitFailed
	}
	return 0
}
