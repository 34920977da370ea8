package sources_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
	"github.com/poolinit/poolinit/ipc/sources"
)

// This is what it takes to add a source, as an exercise: a type that implements
// ipc.Source by what ipc exports, a function that parses its address, and a line
// in the table.

// A memory is a source of messages that are given to it by Send.
type memory struct {
	queue *ipc.Queue
	stats ipc.SourceStats
	flow  ipc.Flow
	loop  *ipc.Loop
	inbox chan string
	limit int // bytes of a message

	mu      sync.Mutex
	pending sync.WaitGroup
	replies []string
}

// parseMemory reads memory://NAME?limit=N.
func parseMemory(a ipc.Address) (ipc.Opener, error) {
	if a.Host == "" || a.Path != "" {
		return nil, fmt.Errorf("memory://NAME")
	}
	limit := 1000
	err := a.Set([]ipc.Parameter{{Name: "limit", Set: func(s string) (err error) {
		if limit, err = strconv.Atoi(s); err != nil {
			return fmt.Errorf("limit=%s: a number", s)
		}
		return nil
	}}})
	if err != nil {
		return nil, err
	}
	return func(q *ipc.Queue, _ zerolog.Logger) (ipc.Source, error) {
		m := &memory{queue: q, loop: ipc.NewLoop(), inbox: make(chan string), limit: limit}
		m.stats.Name = a.Name
		m.flow = ipc.NewFlow(&ipc.Lane{Source: &m.stats})
		return m, nil
	}, nil
}

// Send gives the source a message, and reports whether it took it.
func (m *memory) Send(body string) bool {
	m.pending.Add(1)
	select {
	case m.inbox <- body:
		return true
	case <-m.loop.Ended():
		m.pending.Done()
		return false
	}
}

func (m *memory) Serve() {
	if !m.loop.Begin() {
		return
	}
	defer m.loop.End()
	for {
		select {
		case body := <-m.inbox:
			m.submit(body)
		case <-m.loop.Stopped():
			return
		}
	}
}

func (m *memory) submit(body string) {
	m.stats.Received.Add(1)
	d := ipc.NewDelivery(m, &m.flow, []byte(body))
	if len(body) > min(m.limit, m.queue.MaxMessage()) {
		m.queue.Reject(d, frame.TooBig, "it is too long")
		return
	}
	for m.queue.Submit([]*ipc.Delivery{d}) == 0 {
		<-m.queue.Room(&m.flow) // which the end of the queue makes, too
	}
}

func (m *memory) Settled(d *ipc.Delivery, reply []byte) {
	text := string(frame.Body(reply))
	if frame.IsFailure(reply) {
		code, _ := frame.ParseFailure(frame.Body(reply))
		text = "!" + string(code)
	}
	d.Release()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.replies = append(m.replies, text)
	m.pending.Done()
}

func (m *memory) Flush() {}

func (m *memory) Drain(ctx context.Context) {
	m.loop.Stop()
	select {
	case <-m.loop.Ended():
	case <-ctx.Done():
	}
}

func (m *memory) Linger(context.Context) { m.pending.Wait() }
func (m *memory) Close()                 { m.Drain(context.Background()) }
func (m *memory) Stats() *ipc.SourceStats {
	return &m.stats
}

// got returns the replies, sorted: they come in any order.
func (m *memory) got() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(slices.Values(m.replies))
}

func withMemory() sources.Table {
	table := maps.Clone(sources.All())
	table["memory"] = parseMemory
	return table
}

func TestFourthSource(t *testing.T) {
	u, err := withMemory().Parse("memory://here?limit=100")
	if err != nil {
		t.Fatal(err)
	}
	if u.Name != "memory://here" || u.Scheme != "memory" || u.Addr != "here" {
		t.Errorf("%+v", u)
	}
	w := ipctest.NewWorld(t, func(c *ipc.Config) { c.QueueMessages, c.Window = 3, 1 })
	m := w.Serve(u.Open).(*memory)
	w.Worker(ipctest.Answering(func(body []byte) []byte {
		if string(body) == "bad" {
			return frame.AppendFailure(nil, frame.Refused, "no")
		}
		return ipctest.Echo(body)
	}))
	var want []string
	for i := range 100 { // more than the queue has room for
		body := fmt.Sprintf("%02d", i)
		want = append(want, body)
		if !m.Send(body) {
			t.Fatal("not taken")
		}
	}
	m.Send("bad")
	m.Send(string(make([]byte, 101)))
	m.Drain(t.Context())
	if m.Send("late") {
		t.Error("it takes messages after the drain")
	}
	<-w.Q.Empty()
	m.Linger(t.Context())
	m.Close()
	if got, want := m.got(), append([]string{"!refused", "!too-big"}, want...); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	s := m.Stats()
	if s.Received.Load() != 102 || s.Handled.Load() != 100 || s.Failed.Load() != 2 || s.Lost.Load() != 1 {
		t.Errorf("received %d, handled %d, failed %d, lost %d", s.Received.Load(), s.Handled.Load(), s.Failed.Load(), s.Lost.Load())
	}
}

// One that has not begun can be drained and closed; what it submits after the
// end of the queue is told so.
func TestFourthSourceEnds(t *testing.T) {
	u, err := withMemory().Parse("memory://here")
	if err != nil {
		t.Fatal(err)
	}
	w := ipctest.NewWorld(t, nil)
	idle := w.Open(u.Open)
	idle.Drain(t.Context())
	idle.Serve()
	idle.Close()
	m := w.Serve(u.Open).(*memory)
	w.Q.Close()
	m.Send("late")
	m.Linger(t.Context())
	m.Close()
	if got := m.got(); !slices.Equal(got, []string{"!stopping"}) {
		t.Errorf("%q", got)
	}
}

func TestFourthSourceRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"memory://":              "memory://NAME",
		"memory://x?once=true":   `memory:// has no parameter "once"; there are limit`,
		"memory://x?limit=a":     "limit=a: a number",
		"tcp://x:1?limit=3":      `tcp:// has no parameter "limit"; there are reply, once, tagged, idle, partial, connections, priority, expires, allow, cert, key and client-ca`,
		"other://x":              "a URL such as tcp://0.0.0.0:8089, unix:///run/pool.sock or sysv://0x7000001",
		"memory://x?limit=1&%zz": "parameters such as ?reply=always&idle=60s: invalid URL escape \"%zz\"",
	} {
		if _, err := withMemory().Parse(in); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
	if _, err := sources.Parse("memory://x"); err == nil {
		t.Error("the table itself has changed")
	}
}
