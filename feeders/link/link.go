// Package link is a feeder's end of the link to poolinit: descriptor 3, with tagged
// frames both ways. docs/feeders.md is the contract that it speaks. It is for any
// feeder that is written in Go; what to do with a broker, and what an answer means to
// it, is package flow's business.
//
//	l, hello, err := link.Open()
//	l.Ready()
//	l.Send(tag, meta, body)
//	err = l.Next(&batch) // answers, credit, drain
//
// A Link is for two goroutines: one calls Next, any others all else.
package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/feeders/internal/frame"
	"github.com/poolinit/poolinit/feeders/secret"
)

// Version is the version of the contract.
const Version = 1

// FD is the descriptor of the link.
const FD = 3

// PingEvery is how often poolinit has to hear a ping. It waits six times as long.
const PingEvery = 5 * time.Second

// MaxControl is the longest body of a control frame, in bytes.
const MaxControl = 64 << 10

// MaxMeta is the longest meta of a message, in bytes. poolinit adds to it.
const MaxMeta = frame.MaxMeta - 1<<10

// maxDown is the longest reason of a Down, in bytes.
const maxDown = 1024

// A Hello is poolinit's first frame: the configuration.
type Hello struct {
	Version    int         `json:"hello"`
	Check      bool        `json:"check"`       // only look at the configuration
	Feed       string      `json:"feed"`        // the feed's name, without secrets
	URL        secret.Text `json:"url"`         // of --feed
	Workers    int         `json:"workers"`     // a hint
	MaxMessage int         `json:"max_message"` // the longest body, in bytes
	Credit     int         `json:"credit"`      // how many messages may be open
}

// An Answer is what became of a message.
type Answer struct {
	Tag    uint64
	Failed bool
	Meta   []byte // of a reply, or nil
	Body   []byte // the reply, or the code and text of a failure
}

// A Code says why a message failed.
type Code = frame.Code

// The codes that poolinit answers a feeder with. An unknown one is as GivenUp.
const (
	Stopping    = frame.Stopping
	Interrupted = frame.Interrupted
	GivenUp     = frame.GivenUp
	Refused     = frame.Refused
	Retry       = frame.Retry
	TooBig      = frame.TooBig
	NotALine    = frame.NotALine
)

// Failure returns the code and the text of a failed answer.
func (a Answer) Failure() (Code, string) { return frame.ParseFailure(a.Body) }

// A Link is the connection to poolinit.
type Link struct {
	conn io.ReadWriteCloser
	rest []byte // the part of a frame that the last Next has read
	out  writer
}

// Open takes over descriptor 3, makes the process undumpable so that no other
// process of the same user can read the secrets that follow, and says hello.
func Open() (*Link, Hello, error) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, Hello{}, fmt.Errorf("cannot make this process undumpable: %w", err)
	}
	kind, err := unix.GetsockoptInt(FD, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return nil, Hello{}, errors.New("descriptor 3 is not a stream socket: a feeder is started by poolinit --feed")
	}
	unix.CloseOnExec(FD)
	if err := unix.SetNonblock(FD, true); err != nil { // so that Close ends a read
		return nil, Hello{}, fmt.Errorf("cannot use descriptor 3: %w", err)
	}
	return New(os.NewFile(FD, "link"))
}

// New says hello on a connection, and waits for poolinit's hello.
func New(conn io.ReadWriteCloser) (*Link, Hello, error) {
	l := &Link{conn: conn}
	l.out.init(conn)
	if err := l.control(map[string]int{"hello": Version}); err != nil {
		return nil, Hello{}, err
	}
	t, err := frame.ReadTagged(conn, MaxControl)
	var h Hello
	switch {
	case err != nil:
		err = fmt.Errorf("no hello from poolinit: %w", err)
	case t.Tag != 0 || t.Failed:
		err = errors.New("poolinit's first frame is not a hello")
	default:
		if err = json.Unmarshal(t.Body, &h); err != nil {
			err = fmt.Errorf("poolinit's hello is not understood: %w", err)
		} else if h.Version != Version {
			err = fmt.Errorf("%w: %d, and this feeder speaks %d", ErrVersion, h.Version, Version)
		}
	}
	if err != nil {
		_ = l.Close()
		return nil, Hello{}, err
	}
	return l, h, nil
}

// ErrVersion says that poolinit speaks another version of the contract.
var ErrVersion = errors.New("poolinit speaks another version of the link")

// Ready says that the broker is connected.
func (l *Link) Ready() { _ = l.control(map[string]bool{"ready": true}) }

// Down says that the broker is not connected, and why: one line, without secrets.
func (l *Link) Down(reason string) {
	reason = strings.Join(strings.Fields(reason), " ")
	if len(reason) > maxDown {
		reason = reason[:maxDown]
	}
	_ = l.control(map[string]string{"down": strings.ToValidUTF8(reason, "\uFFFD")})
}

// Ping says that the feeder is alive. It comes from where the feeder would hang.
func (l *Link) Ping() { _ = l.control(map[string]bool{"ping": true}) }

// Stats sends the counters, as docs/feeders.md lists them.
func (l *Link) Stats(v any) { _ = l.control(map[string]any{"stats": v}) }

// control writes a control frame.
func (l *Link) control(v any) error {
	body, err := json.Marshal(v)
	if err == nil && len(body) > MaxControl {
		err = fmt.Errorf("a control frame of %d bytes: the limit is %d", len(body), MaxControl)
	}
	if err != nil {
		return err
	}
	l.out.add(0, nil, body)
	l.out.flush()
	return nil
}

// Send adds a message to what Flush writes. It copies what it is given. The tag is
// the caller's, and not open.
func (l *Link) Send(tag uint64, meta, body []byte) { l.out.add(tag, meta, body) }

// Flush has everything written that was added. It does not wait for that: poolinit may
// take its time to read.
func (l *Link) Flush() { l.out.flush() }

// closeWait is how long Close waits for poolinit to read what was said last.
const closeWait = 5 * time.Second

// Close writes what is left and closes the link. Next returns an error then.
func (l *Link) Close() error {
	l.out.end(closeWait)
	return l.conn.Close()
}

// A writer writes what is added to it, in order, on a goroutine of its own: a full
// socket must not keep the feeder from reading.
type writer struct {
	mu    sync.Mutex
	buf   []byte
	spare []byte
	err   error

	wake chan struct{} // 1: there is something to write
	stop chan struct{}
	done chan struct{}
}

// keepBuffer is the largest buffer that is kept for the next frames.
const keepBuffer = 4 << 20

func (w *writer) init(to io.WriteCloser) {
	w.wake, w.stop, w.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go w.run(to) // until end, which waits for it, or the first error
}

func (w *writer) add(tag uint64, meta, body []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.buf = frame.AppendTagged(w.buf, frame.Tagged{Tag: tag, Meta: meta, Body: body})
	}
}

func (w *writer) flush() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *writer) run(to io.WriteCloser) {
	defer close(w.done)
	for stopped := false; ; {
		select {
		case <-w.wake:
		case <-w.stop:
			stopped = true
		}
		for b := w.take(); len(b) > 0; b = w.take() {
			if _, err := to.Write(b); err != nil {
				w.fail(err)
				_ = to.Close() // so that Next ends as well
				return
			}
			w.giveBack(b)
		}
		if stopped {
			return
		}
	}
}

// take returns what is to be written now.
func (w *writer) take() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.buf
	w.buf, w.spare = w.spare[:0], nil
	return b
}

// giveBack keeps the memory of what has been written.
func (w *writer) giveBack(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if cap(b) <= keepBuffer {
		w.spare = b[:0]
	}
}

func (w *writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err, w.buf = err, nil
}

// end waits until everything is written, or for the time given.
func (w *writer) end(wait time.Duration) {
	w.mu.Lock()
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	w.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-w.done:
	case <-t.C:
	}
}
