// Package pooltest is poolinit's end of the link, for tests: it says hello, gives
// credit, reads what the feeder sends and answers it, and notes each breach of the
// contract.
package pooltest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/poolinit/poolinit/feeders/internal/frame"
	"github.com/poolinit/poolinit/feeders/link"
)

// A Message is what a feeder has sent.
type Message struct {
	Tag  uint64
	Meta frame.Meta
	Body string
}

// A Pool is poolinit's end. Its Handle is called for each message, on a goroutine of
// its own; what it returns is the answer.
type Pool struct {
	Handle func(Message) Reply

	conn io.ReadWriteCloser

	mu       sync.Mutex
	cond     *sync.Cond
	out      []byte // to be written
	open     map[uint64]bool
	most     int // open at a time
	credit   int
	drained  bool
	ended    bool
	faults   []string
	ready    int
	downs    []string
	pings    int
	stats    []json.RawMessage
	got      []Message
	handlers sync.WaitGroup
	done     chan struct{}
}

// A Reply is how a message is answered: with a body, or with a code and a text.
type Reply struct {
	Code  frame.Code // "": it was handled
	Text  string
	Never bool // no answer at all
}

// New begins to read a connection. Its credit is 0 before Start.
func New(conn io.ReadWriteCloser, handle func(Message) Reply) *Pool {
	p := &Pool{Handle: handle, conn: conn, open: map[uint64]bool{}, done: make(chan struct{})}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// Start waits for the feeder's hello, and answers it.
func (p *Pool) Start(h link.Hello) error {
	t, err := frame.ReadTagged(p.conn, link.MaxControl)
	if err != nil {
		return fmt.Errorf("no hello from the feeder: %w", err)
	}
	var hello struct{ Hello int }
	if err := json.Unmarshal(t.Body, &hello); err != nil || t.Tag != 0 || hello.Hello != link.Version {
		return fmt.Errorf("the feeder's hello is tag %d, %q", t.Tag, t.Body)
	}
	p.credit = h.Credit
	if h.MaxMessage == 0 {
		h.MaxMessage = 2 << 20
	}
	body := map[string]any{"hello": link.Version, "check": h.Check, "feed": h.Feed, "url": h.URL.Reveal(),
		"workers": h.Workers, "max_message": h.MaxMessage, "credit": h.Credit}
	if err := p.Control(body); err != nil {
		return err
	}
	go p.read()  // until the feeder closes the link
	go p.write() // until then, too
	return nil
}

// Control sends a control frame.
func (p *Pool) Control(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	p.send(frame.Tagged{Body: body})
	return nil
}

// send queues a frame, as a socket does: net.Pipe has no buffer.
func (p *Pool) send(t frame.Tagged) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = frame.AppendTagged(p.out, t)
	p.cond.Broadcast()
}

func (p *Pool) write() {
	for {
		p.mu.Lock()
		for len(p.out) == 0 && !p.ended {
			p.cond.Wait()
		}
		b, ended := p.out, p.ended
		p.out = nil
		p.mu.Unlock()
		if ended {
			return
		}
		if _, err := p.conn.Write(b); err != nil {
			return
		}
	}
}

// Credit sets the credit.
func (p *Pool) Credit(n int) {
	p.mu.Lock()
	p.credit = n
	p.mu.Unlock()
	_ = p.Control(map[string]int{"credit": n})
}

// Drain tells the feeder to stop. From now on messages are answered stopping.
func (p *Pool) Drain() {
	p.mu.Lock()
	p.drained = true
	p.mu.Unlock()
	_ = p.Control(map[string]bool{"drain": true})
}

// Stats asks for the counters, and returns them.
func (p *Pool) Stats() map[string]any {
	p.mu.Lock()
	before := len(p.stats)
	p.mu.Unlock()
	_ = p.Control(map[string]bool{"stats": true})
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.stats) == before && !p.ended {
		p.cond.Wait()
	}
	return p.lastStats()
}

// LastStats returns the counters that came last.
func (p *Pool) LastStats() map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lastStats()
}

func (p *Pool) lastStats() map[string]any {
	m := map[string]any{}
	if n := len(p.stats); n > 0 {
		_ = json.Unmarshal(p.stats[n-1], &m)
	}
	return m
}

func (p *Pool) read() {
	defer close(p.done)
	for {
		t, err := frame.ReadTagged(p.conn, frame.MaxTaggedBody)
		p.mu.Lock()
		if err != nil {
			p.ended = true
			if err != io.EOF && err != io.ErrClosedPipe {
				p.fault("the link ended with %v", err)
			}
			p.cond.Broadcast()
			p.mu.Unlock()
			p.handlers.Wait()
			return
		}
		if t.Tag == 0 {
			p.control(t.Body)
		} else {
			p.message(t)
		}
		p.cond.Broadcast()
		p.mu.Unlock()
	}
}

func (p *Pool) control(body []byte) {
	var c struct {
		Ready, Ping bool
		Down        string
		Stats       json.RawMessage
	}
	if err := json.Unmarshal(body, &c); err != nil {
		p.fault("control frame %q: %v", body, err)
	}
	switch {
	case c.Ready:
		p.ready++
	case c.Ping:
		p.pings++
	case c.Down != "":
		p.downs = append(p.downs, c.Down)
	case c.Stats != nil:
		p.stats = append(p.stats, c.Stats)
	default:
		p.fault("control frame %q", body)
	}
}

func (p *Pool) message(t frame.Tagged) {
	m := Message{Tag: t.Tag, Body: string(t.Body)}
	var err error
	if m.Meta, err = frame.ParseMeta(t.Meta); err != nil {
		p.fault("meta %q: %v", t.Meta, err)
	}
	if p.open[t.Tag] {
		p.fault("tag %d is open", t.Tag)
	}
	p.open[t.Tag] = true
	if p.most = max(p.most, len(p.open)); len(p.open) > p.credit && !p.drained {
		p.fault("%d messages are open, and the credit is %d", len(p.open), p.credit)
	}
	p.got = append(p.got, m)
	drained := p.drained
	p.handlers.Go(func() {
		r := Reply{Code: frame.Stopping}
		if !drained {
			r = p.Handle(m)
		}
		p.Answer(m.Tag, r)
	})
}

// Answer answers a tag, open or not.
func (p *Pool) Answer(tag uint64, r Reply) {
	if r.Never {
		return
	}
	p.mu.Lock()
	delete(p.open, tag)
	p.cond.Broadcast()
	p.mu.Unlock()
	if r.Code == "" {
		p.send(frame.Tagged{Tag: tag, Body: []byte(r.Text)})
		return
	}
	p.send(frame.Tagged{Tag: tag, Failed: true, Body: []byte(string(r.Code) + ": " + r.Text)})
}

func (p *Pool) fault(format string, args ...any) {
	p.faults = append(p.faults, fmt.Sprintf(format, args...))
}

// Wait waits until a condition holds, and reports whether it came to hold before
// the link ended.
func (p *Pool) Wait(condition func(View) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !condition(p.view()) {
		if p.ended {
			return false
		}
		p.cond.Wait()
	}
	return true
}

// A View is what a Pool has seen.
type View struct {
	Got    []Message
	Open   int
	Most   int // open at a time
	Ready  int // how often
	Downs  []string
	Pings  int
	Faults []string
	Ended  bool // the feeder has closed the link
	Stats  int  // how often they came
}

// See returns what has been seen so far.
func (p *Pool) See() View {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.view()
	v.Got, v.Downs, v.Faults = slices.Clone(v.Got), slices.Clone(v.Downs), slices.Clone(v.Faults)
	return v
}

func (p *Pool) view() View {
	return View{Got: p.got, Open: len(p.open), Most: p.most, Ready: p.ready, Downs: p.downs, Pings: p.pings,
		Faults: p.faults, Ended: p.ended, Stats: len(p.stats)}
}

// Tags returns the tags that are open.
func (p *Pool) Tags() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.open))
}

// Close closes this end, as if poolinit had died.
func (p *Pool) Close() error { return p.conn.Close() }

// Ended is closed when the feeder has closed the link and all handlers have returned.
func (p *Pool) Ended() <-chan struct{} { return p.done }

// Until is Wait with a deadline, for tests with real processes.
func (p *Pool) Until(limit time.Duration, condition func(View) bool) bool {
	timer := time.AfterFunc(limit, p.cond.Broadcast)
	defer timer.Stop()
	end := time.Now().Add(limit)
	ok := false
	p.Wait(func(v View) bool {
		ok = condition(v)
		return ok || !time.Now().Before(end)
	})
	return ok
}
