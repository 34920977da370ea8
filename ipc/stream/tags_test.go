package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// A taggedClient is one of a source with tagged=true.
type taggedClient struct {
	t testing.TB
	*ipctest.Client
}

func (w *world) dialTagged() *taggedClient { return &taggedClient{w.T, w.dial()} }

var hello = string(frame.AppendControl(nil, frame.Control{Hello: 1}))

// tagged returns a tagged frame of a message.
func tagged(tag uint64, body string) string { return taggedMeta(tag, "", body) }

func taggedMeta(tag uint64, meta, body string) string {
	return string(frame.AppendTagged(nil, frame.Tagged{Tag: tag, Meta: []byte(meta), Body: []byte(body)}))
}

func (c *taggedClient) write(frames ...string) {
	c.t.Helper()
	if _, err := io.WriteString(c, strings.Join(frames, "")); err != nil {
		c.t.Fatal(err)
	}
}

// next reads an answer: "TAG META BODY", with a ! before the body of a failure.
func (c *taggedClient) next() string {
	c.t.Helper()
	f, err := frame.ReadTagged(c.R, frame.MaxReply)
	if err != nil {
		return "error " + err.Error()
	}
	return answerText(f)
}

func answerText(f frame.Tagged) string {
	s := fmt.Sprint(f.Tag, " ")
	if f.Meta != nil {
		s += string(f.Meta) + " "
	}
	if f.Failed {
		s += "!"
	}
	return s + string(f.Body)
}

func (c *taggedClient) want(answers ...string) {
	c.t.Helper()
	for _, want := range answers {
		if got := c.next(); got != want {
			c.t.Errorf("answer %.200q, want %.200q", got, want)
		}
	}
}

// wantAll reads as many answers, which may come in any order.
func (c *taggedClient) wantAll(answers ...string) {
	c.t.Helper()
	var got []string
	for range answers {
		got = append(got, c.next())
	}
	slices.Sort(got)
	slices.Sort(answers)
	if !slices.Equal(got, answers) {
		c.t.Errorf("answers %.500q, want %.500q", got, answers)
	}
}

const helloAnswer = `0 {"hello":1}`

// Each row of the table in docs/protocol.md.
func TestTaggedFaults(t *testing.T) {
	const (
		plainFault = `plain not-tagged: the first frame here is tagged, with the tag 0 and the body {"hello":1}`
		tooBig     = "!too-big: the longest message here is 1000 bytes"
		goesOn     = "goes on"
		end        = "error EOF"
		longMeta   = "\x40\x01\x00\x0d" + "\x00\x00\x00\x00\x00\x00\x00\x02" + "\x00\x01\x00\x01"
		overMeta   = "\x40\x00\x00\x0d" + "\x00\x00\x00\x00\x00\x00\x00\x02" + "\x00\x00\x00\x02" + "x"
		highTag    = "\x00\x00\x00\x08\x00\x20\x00\x00\x00\x00\x00\x00"
		cutHeader  = "\x00\x00\x10\x00\x00\x00"
	)
	a, overLimit := tagged(1, "a"), tagged(7, strings.Repeat("x", 1001))
	for name, tt := range map[string]struct {
		bytes string
		want  []string
	}{
		"no fault":                  {hello + a, []string{helloAnswer, "1 a", goesOn}},
		"a message first":           {a, []string{plainFault, end}},
		"a plain frame first":       {string(frame.Append(nil, []byte("hello, world"))), []string{plainFault, end}},
		"a short plain frame first": {string(frame.Append(nil, []byte("hello"))), []string{plainFault, end}},
		"an empty plain frame":      {string(frame.Append(nil, nil)), []string{plainFault, end}},
		"HTTP":                      {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", []string{plainFault, end}},
		"TLS":                       {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", []string{plainFault, end}},
		"a long control first":      {string(frame.AppendTagged(nil, frame.Tagged{Body: make([]byte, 2000)})), []string{plainFault, end}},
		"another control first":     {string(frame.AppendControl(nil, frame.Control{Drain: true})), []string{plainFault, end}},
		"another version":           {string(frame.AppendControl(nil, frame.Control{Hello: 2})), []string{plainFault, end}},
		"a hello that is no JSON":   {tagged(0, "hello"), []string{plainFault, end}},
		"a hello with more":         {tagged(0, `{"hello":1,"later":[]}`) + a, []string{helloAnswer, "1 a", goesOn}},

		"a tag above 2^53-1": {hello + a + highTag, []string{helloAnswer, "1 a", "0 !not-tagged: the tag is above 2^53-1", end}},
		"the highest tag":    {hello + tagged(frame.MaxTag, "a"), []string{helloAnswer, "9007199254740991 a", goesOn}},
		"meta over 64 KiB":   {hello + a + longMeta, []string{helloAnswer, "1 a", "0 !not-tagged: " + frame.ErrMeta.Error(), end}},
		"meta over frame":    {hello + a + overMeta, []string{helloAnswer, "1 a", "0 !not-tagged: " + frame.ErrMeta.Error(), end}},
		"no room for a tag":  {hello + a + "\x00\x00\x00\x07", []string{helloAnswer, "1 a", "0 !not-tagged: " + frame.ErrNoTag.Error(), end}},
		"no room for H":      {hello + a + "\x40\x00\x00\x0b", []string{helloAnswer, "1 a", "0 !not-tagged: " + frame.ErrNoTag.Error(), end}},

		"meta that is no object": {hello + taggedMeta(2, "[]", "x") + a, []string{helloAnswer, "2 !not-tagged: the meta is not a JSON object", "1 a", goesOn}},
		"meta that is no JSON":   {hello + taggedMeta(2, "{x}", "x") + a, []string{helloAnswer, "2 !not-tagged: meta that is not a JSON object of the known kind: invalid character 'x' looking for beginning of object key string", "1 a", goesOn}},
		"its tag is free again":  {hello + taggedMeta(1, "1", "x") + a, []string{helloAnswer, "1 !not-tagged: the meta is not a JSON object", "1 a", goesOn}},

		"over --max-message":   {hello + a + overLimit, []string{helloAnswer, "1 a", "7 " + tooBig, end}},
		"far over it":          {hello + "\x3f\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x07", []string{helloAnswer, "7 " + tooBig, end}},
		"far over it, cut":     {hello + "\x3f\xff\xff\xff\x00\x00", []string{helloAnswer, end}},
		"over it, a high tag":  {hello + "\x3f\xff\xff\xff\x7f\x00\x00\x00\x00\x00\x00\x07", []string{helloAnswer, "0 !not-tagged: the tag is above 2^53-1", end}},
		"just --max-message":   {hello + tagged(1, strings.Repeat("x", 1000)), []string{helloAnswer, "1 " + strings.Repeat("x", 1000), goesOn}},
		"that with meta":       {hello + taggedMeta(1, `{"key":"k"}`, strings.Repeat("x", 1000)), []string{helloAnswer, "1 " + strings.Repeat("x", 1000), goesOn}},
		"bit 31 of a message":  {hello + "\x80\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x01a", []string{helloAnswer, "1 a", goesOn}},
		"a bad control frame":  {hello + tagged(0, "no JSON") + a, []string{helloAnswer, "1 a", goesOn}},
		"a second hello":       {hello + hello + a, []string{helloAnswer, "1 a", goesOn}},
		"an unknown control":   {hello + tagged(0, `{"new":true}`) + a, []string{helloAnswer, "1 a", goesOn}},
		"a part of a header":   {hello + cutHeader, []string{helloAnswer, end}},
		"a part of a body":     {hello + a + tagged(2, "hello")[:14], []string{helloAnswer, "1 a", end}},
		"an empty message":     {hello + tagged(1, ""), []string{helloAnswer, "1 ", goesOn}},
		"hello and nothing":    {hello, []string{helloAnswer, end}},
		"nothing at all":       {"", []string{end}},
		"a part of the hello":  {hello[:10], []string{end}},
		"a failing message":    {hello + tagged(3, "fail"), []string{helloAnswer, "3 !refused: no", goesOn}},
		"a tag is used twice":  {hello + a, []string{helloAnswer, "1 a", "again", goesOn}},
		"the hello is not due": {hello + a + tagged(2, "b"), []string{helloAnswer, "all 1 a|2 b", goesOn}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "?tagged=true", func(c *ipc.Config) { c.MaxMessage = 1000 })
			w.Worker(ipctest.Answering(func(b []byte) []byte {
				if string(b) == "fail" {
					return frame.AppendFailure(nil, frame.Refused, "no")
				}
				return ipctest.Echo(b)
			}))
			c := w.dialTagged()
			c.write(tt.bytes)
			if !slices.Contains(tt.want, goesOn) {
				c.Conn.(*net.TCPConn).CloseWrite()
			}
			faults := uint64(0)
			for _, want := range tt.want {
				if strings.Contains(want, "not-tagged: ") {
					faults++
				}
				all, isAll := strings.CutPrefix(want, "all ")
				switch {
				case want == goesOn:
					c.write(tagged(99, "more"))
					c.want("99 more")
				case want == "again":
					c.write(a)
					c.want("1 a")
				case isAll:
					c.wantAll(strings.Split(all, "|")...)
				case strings.HasPrefix(want, "plain "):
					if got := "plain " + strings.TrimPrefix(c.Next(), "!"); got != want {
						t.Errorf("%q, want %q", got, want)
					}
				default:
					c.want(want)
				}
			}
			ipctest.Eventually(t, "the fault is counted", func() bool { return w.src.stats.FramesNotTagged.Load() == faults })
			if n := strings.Count(w.Log.Text(), "clients broke the rules of tagged frames"); n != int(faults) {
				t.Errorf("%d lines about %d faults: %s", n, faults, w.Log.Text())
			}
		})
	}
}

// A client that speaks tagged frames to a source that does not is counted, and its
// frames are messages.
func TestTaggedToPlain(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	for range 3 {
		c := w.dialTagged()
		c.write(hello)
		if got := c.Next(); got != hello[frame.HeaderSize:] {
			t.Errorf("%q", got)
		}
	}
	if n := w.src.stats.FramesNotTagged.Load(); n != 3 || strings.Count(w.Log.Text(), "this source has no tagged=true") != 1 {
		t.Errorf("%d counted: %s", n, w.Log.Text())
	}
	w.dial().Send("an ordinary message", hello)
	if n := w.src.stats.FramesNotTagged.Load(); n != 3 {
		t.Errorf("%d counted", n)
	}
}

// A tag that is still open is the end of its connection, after the outstanding
// answers. So is a message over the limit.
func TestTaggedFaultComesLast(t *testing.T) {
	for name, tt := range map[string]struct{ bytes, want string }{
		"a tag that is open":         {tagged(1, "x"), "0 !not-tagged: the message with the tag 1 is not answered yet"},
		"with meta that is no good":  {taggedMeta(1, "[]", "x"), "0 !not-tagged: the message with the tag 1 is not answered yet"},
		"too big and open":           {tagged(1, strings.Repeat("x", 1001)), "0 !not-tagged: the message with the tag 1 is not answered yet"},
		"too big":                    {tagged(3, strings.Repeat("x", 1001)), "3 !too-big: the longest message here is 1000 bytes"},
		"no tagged frame in between": {"\x00\x00\x00\x00", "0 !not-tagged: the frame is too short for a tag"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "?tagged=true", func(c *ipc.Config) { c.MaxMessage = 1000 })
			gate := make(chan bool)
			w.Worker(ipctest.Answering(func(b []byte) []byte { <-gate; return ipctest.Echo(b) }))
			c := w.dialTagged()
			c.write(hello, tagged(1, "a"), tagged(2, "b"), tt.bytes, tagged(4, "dropped"))
			c.want(helloAnswer)
			ipctest.Eventually(t, "the fault is known", func() bool {
				return slices.ContainsFunc(w.src.all(), func(c *conn) bool {
					c.mu.Lock()
					defer c.mu.Unlock()
					return c.tags.last != nil
				})
			})
			close(gate)
			c.want("1 a", "2 b", tt.want, "error EOF")
			if n := w.src.stats.Received.Load(); n != 2 {
				t.Errorf("%d messages received", n)
			}
		})
	}
}

// A slow message holds up no other answer.
func TestTaggedAnyOrder(t *testing.T) {
	w := newWorld(t, "?tagged=true", func(c *ipc.Config) { c.Window = 1 })
	gate := make(chan bool)
	for range 2 {
		w.Worker(ipctest.Answering(func(b []byte) []byte {
			if string(b) == "slow" {
				<-gate
			}
			return ipctest.Echo(b)
		}))
	}
	c := w.dialTagged()
	c.write(hello, tagged(17, "slow"))
	c.want(helloAnswer)
	for i := range uint64(1000) {
		c.write(tagged(i+18, "fast"))
		c.want(fmt.Sprint(i+18, " fast"))
	}
	close(gate)
	c.want("17 slow")
}

// A scripted worker of tagged frames sees a client's meta, and its own goes back.
func TestTaggedMeta(t *testing.T) {
	w := newWorld(t, "?tagged=true", func(c *ipc.Config) { c.Format = ipc.Tagged })
	seen := make(chan frame.Meta, 3) // 3: as many as there are messages
	w.Worker(func(sock net.Conn) {
		for {
			f, err := frame.ReadTagged(sock, frame.MaxTaggedBody)
			if err != nil || f.Tag == 0 {
				return
			}
			m, err := frame.ParseMeta(f.Meta)
			if err != nil {
				t.Error(err)
			}
			seen <- m
			meta := []byte(`{"type":"text/plain"}`)
			if m.Key == "" {
				meta = nil
			}
			_, _ = sock.Write(frame.AppendTagged(nil, frame.Tagged{Tag: f.Tag, Meta: meta, Body: f.Body})) // fails at the end
		}
	})
	c := w.dialTagged()
	big := strings.Repeat("x", 300_000)
	c.write(hello, taggedMeta(1, `{"key":"k","headers":{"a":"b"},"id":"mine"}`, "body"), tagged(2, "b"), taggedMeta(3, `{"key":"k"}`, big))
	c.want(helloAnswer)
	c.wantAll(`1 {"type":"text/plain"} body`, "2 b", `3 {"type":"text/plain"} `+big)
	first := <-seen
	if first.Key != "k" || first.ID != "mine" || first.Headers["a"] != "b" || first.Attempt != 1 || first.Source != w.src.stats.Name {
		t.Errorf("meta of the first one: %+v", first)
	}
	if second := <-seen; second.ID != "2" || second.Key != "" || second.Headers != nil {
		t.Errorf("meta of the second one: %+v", second)
	}
}

// Large ones are not copied, and come out whole, also between small ones.
func TestTaggedLarge(t *testing.T) {
	w := newWorld(t, "?tagged=true", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	c := w.dialTagged()
	var frames, want []string
	for i, size := range []int{5, 4096, 4097, 16 << 10, 20_000, 1 << 20, 3, 2 << 20, 100_000, 0} {
		body := strings.Repeat(string(rune('a'+i)), size)
		meta := ""
		if i%2 == 1 {
			meta = `{"key":"k"}`
		}
		frames = append(frames, taggedMeta(uint64(i+1), meta, body))
		want = append(want, fmt.Sprint(i+1, " ", body))
	}
	go c.write(append([]string{hello}, frames...)...) // ends when all is written
	c.want(helloAnswer)
	c.wantAll(want...)
	ipctest.Eventually(t, "nothing is claimed", func() bool { bytes, _ := w.Q.Budget().Depth(); return bytes == 0 })
}

// What comes after the drain began is answered with its tag, at once.
func TestTaggedDrain(t *testing.T) {
	w := newWorld(t, "?tagged=true", nil)
	gate := make(chan bool)
	w.Worker(ipctest.Answering(func(b []byte) []byte { <-gate; return ipctest.Echo(b) }))
	early, idle, fresh := w.dialTagged(), w.dialTagged(), w.dialTagged()
	early.write(hello, tagged(1, "a"), tagged(2, "b"))
	early.want(helloAnswer)
	idle.write(hello)
	idle.want(helloAnswer)
	ipctest.Eventually(t, "all is here", func() bool {
		_, _, n := w.Q.Depth()
		return n > 0 && w.src.stats.Received.Load() == 2 && len(w.src.all()) == 3
	})
	drained := make(chan bool)
	go func() { // ends with the drain
		w.src.Drain(context.Background())
		close(drained)
	}()
	<-drained
	const stopping = " !stopping: poolinit is stopping; send it again on a new connection"
	early.write(tagged(3, "late"), tagged(3, "late again"))
	early.want("3"+stopping, "3"+stopping)
	idle.write(tagged(1, "late"))
	idle.want("1" + stopping)
	fresh.write(hello, tagged(5, "late"))
	fresh.want(helloAnswer, "5"+stopping)
	close(gate)
	early.want("1 a", "2 b")
	<-w.Q.Empty()
}

// When time is up each message has its answer.
func TestTaggedQueueClose(t *testing.T) {
	w := newWorld(t, "?tagged=true", nil)
	c := w.dialTagged()
	c.write(hello, tagged(4, "a"), tagged(3, "b"))
	c.want(helloAnswer)
	ipctest.Eventually(t, "both are there", func() bool { waiting, _, _ := w.Q.Depth(); return waiting == 2 })
	w.Q.Close()
	const stopping = " !stopping: poolinit stopped before a worker was free; send it again"
	c.wantAll("4"+stopping, "3"+stopping)
}

// A client that ends its half gets all its answers, and then the end.
func TestTaggedHalfClosed(t *testing.T) {
	w := newWorld(t, "?tagged=true", nil)
	gate := make(chan bool)
	w.Worker(ipctest.Answering(func(b []byte) []byte { <-gate; return ipctest.Echo(b) }))
	c := w.dialTagged()
	c.write(hello, tagged(1, "a"), tagged(2, "b"))
	c.Conn.(*net.TCPConn).CloseWrite()
	c.want(helloAnswer)
	close(gate)
	c.want("1 a", "2 b", "error EOF")
}

// A connection at rest costs what a plain one does, and 48 bytes at most.
func TestTaggedConnectionIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(tags{}); n > 48 {
		t.Errorf("the tags of a connection have %d bytes: more than 48", n)
	}
	w := newWorld(t, "?tagged=true", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	c := w.dialTagged()
	c.write(hello)
	for i := range uint64(100) {
		c.write(tagged(i+1, "x"))
	}
	c.want(helloAnswer)
	for range 100 {
		c.next()
	}
	conn := w.src.all()[0]
	conn.mu.Lock()
	defer conn.mu.Unlock()
	if conn.tags.open != nil {
		t.Error("a connection at rest has a set of tags")
	}
}

// A set has what a map has.
func TestTagSet(t *testing.T) {
	s, want := newTagSet(minTags), make(map[uint64]bool)
	random := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		tag := random.Uint64N(3000) + 1
		if random.IntN(3) == 0 {
			tag *= 1 << 40
		}
		switch {
		case s.has(tag) != want[tag]:
			t.Fatalf("%d is there: %v", tag, s.has(tag))
		case want[tag]:
			if s.add(tag) {
				t.Fatalf("%d is added twice", tag)
			}
			s.remove(tag)
			delete(want, tag)
		case !s.add(tag):
			t.Fatalf("%d is not added", tag)
		default:
			want[tag] = true
		}
		if s.n != len(want) || 2*s.n > len(s.table) {
			t.Fatalf("%d tags in %d places, want %d", s.n, len(s.table), len(want))
		}
	}
	for tag := range want {
		s.remove(tag)
	}
	if s.n != 0 || slices.Max(s.table) != 0 {
		t.Errorf("%d tags are left, and %d", s.n, slices.Max(s.table))
	}
}

// Whatever a client sends, each whole message before the first fault has one
// answer, and the fault another one.
func FuzzTaggedConn(f *testing.F) {
	w := newWorld(f, "?tagged=true&idle=0s&partial=0s", func(c *ipc.Config) { c.MaxMessage = 100 })
	w.Worker(ipctest.Answering(ipctest.Echo))
	f.Add([]byte(hello+tagged(1, "a")+taggedMeta(2, "{}", "b")), uint8(3))
	f.Add([]byte(hello+tagged(1, "a")+hello+tagged(7, strings.Repeat("x", 101))), uint8(30))
	f.Add([]byte(hello+taggedMeta(1, "[]", "a")+"\x00\x00\x00\x07"), uint8(100))
	f.Add([]byte(hello+"\x3f\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x07"), uint8(1))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		nc, err := net.Dial("tcp", w.src.Addr().String())
		if err != nil {
			return // out of ports: that says nothing of the input
		}
		defer nc.Close()
		c := ipctest.NewClient(t, nc)
		go func() { // ends when all is written, or the connection is closed
			for rest := data; len(rest) > 0; {
				n := min(len(rest), int(step)*8+1)
				if _, err := c.Write(rest[:n]); err != nil {
					return
				}
				rest = rest[n:]
			}
			c.Conn.(*net.TCPConn).CloseWrite()
		}()
		want, isCertain := taggedModel(data, 100)
		got := make(map[string]int)
		if len(want) == 1 && want["plain"] == 1 {
			if answer := c.Next(); !strings.HasPrefix(answer, "!not-tagged: ") {
				t.Fatalf("%q", answer)
			}
			return
		}
		for {
			answer, err := frame.ReadTagged(c.R, frame.MaxReply)
			if err != nil {
				break
			}
			kind := "reply"
			if code, _ := frame.ParseFailure(answer.Body); answer.Failed {
				kind = string(code)
			}
			got[fmt.Sprint(answer.Tag, " ", kind)]++
		}
		if isCertain && fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}

// taggedModel returns the answers to what a client sends, unless they depend on how
// fast it is answered.
func taggedModel(data []byte, limit int) (want map[string]int, isCertain bool) {
	want = make(map[string]int)
	r := strings.NewReader(string(data))
	first, err := frame.ReadTagged(r, maxHello)
	control, bad := frame.ParseControl(first.Body)
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return want, true
	case err != nil || first.Tag != 0 || bad != nil || control.Hello != 1:
		return map[string]int{"plain": 1}, true
	}
	want["0 reply"]++
	seen := make(map[uint64]bool)
	for {
		rest := data[len(data)-r.Len():]
		f, err := frame.ReadTagged(r, limit)
		tag := f.Tag
		if len(rest) >= 12 {
			tag = binary.BigEndian.Uint64(rest[4:])
		}
		isOpen := err == nil && tag != 0 && seen[tag]
		switch {
		case isOpen:
			return want, false
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return want, true
		case err != nil && strings.HasPrefix(err.Error(), frame.ErrTooLong.Error()):
			switch {
			case len(rest) < 12:
			case tag > frame.MaxTag:
				want["0 not-tagged"]++
			default:
				want[fmt.Sprint(tag, " too-big")]++
			}
			return want, !seen[tag]
		case err != nil:
			want["0 not-tagged"]++
			return want, true
		case tag == 0:
		default:
			seen[tag] = true
			kind := " reply"
			if !isObject(f.Meta) {
				kind = " not-tagged"
			}
			want[fmt.Sprint(tag, kind)]++
		}
	}
}

// isObject reports whether meta is a JSON object, or nothing.
func isObject(meta []byte) bool {
	meta = bytes.TrimSpace(meta)
	return len(meta) == 0 || meta[0] == '{' && json.Valid(meta)
}
