package send

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/poolinit/poolinit/cli/terminal"
	"github.com/poolinit/poolinit/ipc/frame"
)

// A sendOutput writes replies and failures, counts, and shows how far it is.
type sendOutput struct {
	raw    bool
	stdout *bufio.Writer
	stderr *os.File
	bar    bool // there is somebody to show it to
	same   bool // who sees the replies at the same place
	total  struct {
		messages int
		bytes    int64
	}

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

func newSendOutput(o *sendOptions, stdout, stderr *os.File) *sendOutput {
	return &sendOutput{raw: o.raw, stdout: bufio.NewWriterSize(stdout, 64<<10), stderr: stderr,
		bar: terminal.Is(int(stderr.Fd())), same: terminal.Is(int(stdout.Fd())), began: time.Now(), done: make(chan struct{})}
}

func (out *sendOutput) sending(p parcel) {
	out.mu.Lock()
	defer out.mu.Unlock()
	out.sent++
	out.bytes += int64(len(p.body)) + 1 // and its end of line
}

// unsent: so many messages will be sent again.
func (out *sendOutput) unsent(list []parcel) {
	out.mu.Lock()
	defer out.mu.Unlock()
	for _, p := range list {
		out.sent--
		out.bytes -= int64(len(p.body)) + 1
	}
}

// reply writes a reply, and an end of line if it has none. It is seen after flush.
func (out *sendOutput) reply(body []byte) {
	out.mu.Lock()
	defer out.mu.Unlock()
	out.answered++
	_, _ = out.stdout.Write(body) // a broken pipe ends the program; what else happens flush tells
	if !out.raw && !bytes.HasSuffix(body, []byte{'\n'}) {
		_ = out.stdout.WriteByte('\n')
	}
}

// failure reports a message that failed; who is the message, or what is known
// of it.
func (out *sendOutput) failure(who string, code frame.Code, text string) {
	if code != "" {
		text = string(code) + ": " + text
	}
	out.lost(1, who+": "+text)
}

// lost reports so many messages at once.
func (out *sendOutput) lost(n int, text string) {
	out.mu.Lock()
	defer out.mu.Unlock()
	out.failed += n
	out.hide()
	fmt.Fprintln(out.stderr, "poolinit: "+terminal.Printable(text))
}

func (out *sendOutput) flush() error {
	out.mu.Lock()
	defer out.mu.Unlock()
	if out.same && out.stdout.Buffered() > 0 {
		out.hide()
	}
	return out.stdout.Flush()
}

// barAfter is from when on somebody may wonder.
const barAfter, barEvery = time.Second, 100 * time.Millisecond

// show draws a line on the terminal, again and again, until close.
func (out *sendOutput) show() {
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

func (out *sendOutput) draw(now time.Time) {
	out.mu.Lock()
	defer out.mu.Unlock()
	if now.Sub(out.began) >= barAfter {
		out.shown = true
		fmt.Fprint(out.stderr, "\r"+out.line(now.Sub(out.began))+"\x1b[K")
	}
}

func (out *sendOutput) hide() {
	if out.shown {
		out.shown = false
		fmt.Fprint(out.stderr, "\r\x1b[K")
	}
}

// line is shorter than any terminal is wide.
func (out *sendOutput) line(took time.Duration) string {
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
func (out *sendOutput) close() int {
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
		return exitSendFailed
	}
	return 0
}
