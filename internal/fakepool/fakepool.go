// Package fakepool is, for tests of clients, a pool that does what it is told,
// the wrong things too.
package fakepool

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
)

// A Pool plays one script for each connection, the last one for all that follow.
//
// A script is words. A number reads this many messages, "echo" answers each of
// those, "all" answers everything until the client's end, "eof" waits for that,
// "reset" closes with what the client has sent unread, "hang" waits until the
// client is gone, and "garbage" writes what is not a reply. Any other word is a
// frame to be written: a failure, !CODE:TEXT, if it begins with "!".
type Pool struct {
	// URL is where it listens.
	URL string

	ln      net.Listener
	scripts []string
	serving sync.WaitGroup
	done    chan struct{} // closed when the client has ended

	mu  sync.Mutex
	got []string // every message that was read
}

// Start starts a pool at a unix socket of its own.
func Start(t testing.TB, scripts ...string) *Pool {
	t.Helper()
	return StartAt(t, "unix", filepath.Join(t.TempDir(), "s"), scripts...)
}

// StartAt starts a pool that listens at this address.
func StartAt(t testing.TB, network, address string, scripts ...string) *Pool {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	p := &Pool{URL: network + "://" + ln.Addr().String(), ln: ln, scripts: scripts, done: make(chan struct{})}
	p.serving.Go(p.serve)
	return p
}

// End is for when the client has ended. It returns the messages that the pool
// has read.
func (p *Pool) End() []string {
	close(p.done)
	p.ln.Close()
	p.serving.Wait()
	return p.got
}

func (p *Pool) serve() {
	for n := 0; ; n++ {
		nc, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.play(nc, p.scripts[min(n, len(p.scripts)-1)])
	}
}

func (p *Pool) play(nc net.Conn, script string) {
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReaderSize(nc, 16) // the least: what is not read stays in the socket
	var last []string
	for word := range strings.FieldsSeq(script) {
		var n int
		switch _, err := fmt.Sscanf(word, "%d", &n); {
		case err == nil:
			if last = p.read(r, n); last == nil && n > 0 {
				return
			}
		case word == "echo":
			for _, body := range last {
				_, _ = nc.Write(frame.Append(nil, []byte(body)))
			}
		case word == "all":
			p.all(nc, r)
		case word == "eof":
			_, _ = io.Copy(io.Discard, r)
		case word == "reset":
			return // with messages unread that is a reset
		case word == "hang":
			<-p.done
		case word == "garbage":
			_, _ = nc.Write(binary.BigEndian.AppendUint32(nil, frame.MaxBody))
		case strings.HasPrefix(word, "!"):
			code, text, _ := strings.Cut(word[1:], ":")
			_, _ = nc.Write(frame.AppendFailure(nil, frame.Code(code), text))
		default:
			_, _ = nc.Write(frame.Append(nil, []byte(word)))
		}
	}
}

// read reads n messages. If there are fewer it returns none.
func (p *Pool) read(r *bufio.Reader, n int) (list []string) {
	for range n {
		body, _, err := frame.Read(r, frame.MaxBody)
		if err != nil {
			return nil
		}
		list = append(list, string(body))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, list...)
	return list
}

// all answers everything until the client's end.
func (p *Pool) all(nc net.Conn, r *bufio.Reader) {
	for {
		list := p.read(r, 1)
		if list == nil {
			return
		}
		_, _ = nc.Write(frame.Append(nil, []byte(list[0])))
	}
}
