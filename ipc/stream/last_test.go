package stream

import (
	"bytes"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// lastReplies are the ways to a reply after which poolinit closes the connection.
var lastReplies = []struct {
	name, params string
	sent         func(c *net.TCPConn)
}{
	{"once", "?once=true", func(*net.TCPConn) {}},
	{"once, and more unread", "?once=true", func(c *net.TCPConn) { _, _ = c.Write(frame.Append(nil, []byte("more"))) }},
	{"half closed", "?reply=always", func(c *net.TCPConn) { _ = c.CloseWrite() }},
}

func TestLastReplyIsWhole(t *testing.T) {
	for _, way := range lastReplies {
		for _, size := range []int{1, 100 << 10, 8 << 20} {
			if size > 100<<10 && way.name == "once, and more unread" {
				continue // what is not read resets the connection, and what was not received yet is lost
			}
			w := newWorld(t, way.params, nil)
			w.Worker(ipctest.Answering(func([]byte) []byte { return frame.Append(nil, make([]byte, size)) }))
			for range 3 {
				c := w.dial().Conn.(*net.TCPConn)
				if _, err := c.Write(frame.Append(nil, []byte("hello"))); err != nil {
					t.Fatal(err)
				}
				way.sent(c)
				got, err := io.ReadAll(c)
				if want := frame.Append(nil, make([]byte, size)); !bytes.Equal(got, want) {
					t.Fatalf("%s: %d bytes of %d, and then %v", way.name, len(got), len(want), err)
				}
			}
		}
	}
}

// The end of the stream is in the packet of the reply. If it were in one of its own, it would
// be late in some of the rounds.
func TestLastReplyBringsTheEnd(t *testing.T) {
	for _, way := range lastReplies {
		if way.name == "once, and more unread" {
			continue // it may be reset
		}
		w := newWorld(t, way.params, nil)
		hold := make(chan struct{})
		w.Worker(ipctest.Answering(func(b []byte) []byte {
			<-hold // until the client has sent the end, and poolinit has seen it
			return ipctest.Echo(b)
		}))
		for range 100 {
			c := w.dial().Conn.(*net.TCPConn)
			if _, err := c.Write(frame.Append(nil, []byte("hello"))); err != nil {
				t.Fatal(err)
			}
			way.sent(c)
			ipctest.Eventually(t, "all has been read", func() bool {
				all := w.src.all()
				return len(all) == 1 && all[0].isOver()
			})
			hold <- struct{}{}
			if n, err := c.Read(make([]byte, 100)); n != frame.HeaderSize+5 || err != nil {
				t.Fatalf("%s: %d bytes, %v", way.name, n, err)
			}
			if state := tcpState(t, c); state != unix.BPF_TCP_CLOSE_WAIT && state != unix.BPF_TCP_CLOSE {
				t.Fatalf("%s: the reply is there, and the end of the stream is not: TCP state %d", way.name, state)
			}
			c.Close()
			ipctest.Eventually(t, "it is closed", func() bool { return len(w.src.all()) == 0 })
		}
	}
}

func tcpState(t *testing.T, c *net.TCPConn) (state uint8) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		state = info.State
	})
	return state
}
