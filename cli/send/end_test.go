package send

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// After a message that is too big the rest goes over a new connection. Where it
// may have been one of several, what may be lost is told.
func TestSendTooBig(t *testing.T) {
	for name, tt := range map[string]struct {
		flags, stdin string
		scripts      []string
		got          string
		replies      string
		stderr       string
	}{
		"in the middle":          {"", "a xxx b c", []string{"2 a !too-big:no eof", "2 echo eof"}, "a xxx b c", "a b c", "message 2: too-big: no\n"},
		"--reply":                {"--reply", "a xxx b c", []string{"2 a !too-big:no eof", "2 echo eof"}, "a xxx b c", "a b c", "message 2: too-big: no\n"},
		"the first, or not":      {"", "xxx b xxxx", []string{"1 !too-big: eof"}, "xxx", "", "one of those from message 1 to message 3"},
		"the first, of a length": {"", "xxx b xxx", []string{"1 !too-big: eof", "2 echo eof"}, "xxx b xxx", "b xxx", "message 1: too-big"},
		"the last":               {"", "a xxx", []string{"2 a !too-big: eof"}, "a xxx", "a", "message 2: too-big"},
		"and resets":             {"", "a xxx b c", []string{"2 a !too-big: reset", "2 echo eof"}, "a xxx b c", "a b c", "message 2: too-big"},
		"one of two":             {"", "a xxx b c", []string{"2 !too-big:no eof"}, "a xxx", "", "from message 1 to message 4 was too big, and what follows it was dropped: 3 may be lost"},
		"after others":           {"", "aaa b xxxx b xxxxx c", []string{"3 !too-big:no eof"}, "aaa b xxxx", "", "from message 1 to message 6"},
		"a reply excludes one":   {"", "a xx xxxx b", []string{"3 a y !too-big: eof", "1 echo eof"}, "a xx xxxx b", "a y b", "message 3: too-big"},
		"while it stops":         {"", "a b xxx c", []string{"3 a !stopping: !too-big: eof", "2 echo eof"}, "a b xxx b c", "a b c", "message 3: too-big"},
		"stops, one of two":      {"", "a b xxx c xxxx", []string{"3 a !stopping: !too-big: eof"}, "a b xxx", "a", "from message 2 to message 5"},
		"replies after it":       {"", "a xxx b c", []string{"2 a !too-big: b eof", "2 echo eof"}, "a xxx b c", "a b c", "message 2: too-big"},
		"nothing is too big":     {"", "xxx b", []string{"2 a !too-big: eof"}, "xxx b", "a", "a message: too-big"},
	} {
		t.Run(name, func(t *testing.T) {
			f, url := startFake(t, tt.scripts...)
			stdin := strings.ReplaceAll(tt.stdin, " ", "\n") + "\n"
			code, stdout, stderr := sending(t, stdin, append(strings.Fields(tt.flags), url)...)
			f.end()
			if got := strings.Join(strings.Fields(stdout), " "); got != tt.replies {
				t.Errorf("replies %q, want %q", got, tt.replies)
			}
			if got := strings.Join(f.got, " "); got != tt.got {
				t.Errorf("the server got %q, want %q", got, tt.got)
			}
			if code != exitSendFailed || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("code %d, stderr %q, want %q", code, stderr, tt.stderr)
			}
		})
	}
}

// direct runs a sender with a way to connect of the test's own.
func direct(t *testing.T, in <-chan []parcel, dial func() (halfConn, error), args ...string) (code int, stderr string) {
	t.Helper()
	o := new(sendOptions)
	if err := o.parse(sendFlags(o), args); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := newSendOutput(o, w, w)
	(&sender{o: o, in: in, out: out, dial: func(context.Context) (halfConn, error) { return dial() }}).run()
	code = out.close()
	w.Close()
	text := make([]byte, 4096) // less than a pipe holds
	n, _ := r.Read(text)       // at its end there is none
	return code, string(text[:n])
}

func parcels(bodies ...string) (list []parcel) {
	for i, body := range bodies {
		list = append(list, parcel{i + 1, "", []byte(body)})
	}
	return list
}

// A server that closes at once has taken nothing, even if its end is read before
// the reset that tells so. Here that never comes: its socket drops what arrives.
func TestSendToAServerThatClosesAtOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dial := func() (halfConn, error) {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return nil, err
		}
		server, err := ln.Accept()
		if err != nil {
			return nil, err
		}
		dropAll(t, server.(*net.TCPConn))
		server.Close()
		return nc.(*net.TCPConn), nil
	}
	in := make(chan []parcel, 1) // 1: it is all there is
	in <- parcels("a", "b")
	close(in)
	code, stderr := direct(t, in, dial, "tcp://"+ln.Addr().String())
	if code != exitSendFailed || !strings.Contains(stderr, "2 had no reply and may be lost") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

// dropAll has the kernel drop what arrives at a socket.
func dropAll(t *testing.T, nc *net.TCPConn) {
	t.Helper()
	raw, err := nc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	filter := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
}

// With once=true a server closes without a byte when a message failed. It may do
// so while the next one is awaited: that is no reason to send it again.
func TestSendOnceWithoutReply(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = t.TempDir() + "/s"
		}
		ln, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		in := make(chan []parcel)
		got := make(chan string, 1) // 1: whether or not anybody still wants it
		go func() {                 // ends with the input, or with its listener
			defer close(in)
			defer ln.Close()
			var bodies string
			defer func() { got <- bodies }()
			for _, body := range []string{"a", "b", "c"} {
				select {
				case in <- parcels(body):
				case <-time.After(30 * time.Second): // it does not ask for it
					return
				}
				server, err := ln.Accept()
				if err != nil {
					return
				}
				r := bufio.NewReader(server)
				body, _, _ := readReply(r) // a client's frame is as a reply's
				bodies += string(body)
				_ = server.(halfConn).CloseWrite()
				_, _ = io.Copy(io.Discard, r) // until the client has ended as well
				server.Close()
			}
		}()
		dial := func() (halfConn, error) {
			nc, err := net.Dial(network, ln.Addr().String())
			if err != nil {
				return nil, err
			}
			return nc.(halfConn), nil
		}
		code, stderr := direct(t, in, dial, network+"://"+ln.Addr().String()+"?once=true")
		if all := <-got; code != 0 || stderr != "" || all != "abc" {
			t.Errorf("%s: code %d, stderr %q, got %q", network, code, stderr, all)
		}
	}
}

// The messages name the remedy.
func TestSendHints(t *testing.T) {
	const perhaps = "it may want TLS: --tls or --ca FILE"
	stdin := "a\nb\n" + strings.Repeat("c", 100) + "\n" // more than the server reads by the way
	for name, tt := range map[string]struct {
		network, flags, script string
		stderr, not            string
	}{
		"no reply, --reply":   {"tcp", "--reply", "1 eof", "does not answer every message: --reply is for one with reply=always in its URL; " + perhaps, ""},
		"a reset":             {"tcp", "", "reset", perhaps, ""},
		"a reset, --reply":    {"tcp", "--reply --connect-timeout 100ms", "reset", "but no messages; " + perhaps, ""},
		"once":                {"tcp", "", "1", "the server closed the connection without a reply; " + perhaps, ""},
		"heard":               {"tcp", "", "1 x reset", "may be lost", perhaps},
		"unix":                {"unix", "", "reset", "may be lost", perhaps},
		"a pool without TLS":  {"tcp", "--tls", "!too-big:x hang", "(no TLS is spoken there: has its --listen a cert=?); nothing was sent", perhaps},
		"others without TLS":  {"tcp", "--tls", "HTTP/1.1", "(no TLS is spoken there: has its --listen a cert=?)", perhaps},
		"a text for a FILE":   {"unix", "hello", "eof", "hello: no such file or directory; a FILE is expected: for a text, echo hello | poolinit send ADDRESS", ""},
		"a FILE not readable": {"unix", ".", "eof", "cannot read: read .: is a directory", "echo hello"},
	} {
		t.Run(name, func(t *testing.T) {
			address := "127.0.0.1:0"
			if tt.network == "unix" {
				address = t.TempDir() + "/s"
			}
			f, url := startFakeAt(t, tt.network, address, tt.script)
			if name == "once" {
				url += "?once=true&reply=always"
			}
			code, stdout, stderr := sending(t, stdin, append([]string{url}, strings.Fields(tt.flags)...)...)
			f.end()
			if code != exitSendFailed || !strings.Contains(stderr, tt.stderr) || tt.not != "" && strings.Contains(stderr, tt.not) {
				t.Errorf("code %d, stdout %q, stderr %q, want %q, not %q", code, stdout, stderr, tt.stderr, tt.not)
			}
		})
	}
}

// A reply that ends with an end of line gets no second one.
func TestSendEndOfLine(t *testing.T) {
	for _, tt := range []struct{ stdin, flags, want string }{
		{"a", "", "a\n"},
		{"a\n", "", "a\n"},
		{"a\n\n", "", "a\n\n"},
		{"", "", "\n"},
		{"a", "--raw", "a"},
		{"a\n", "--raw", "a\n"},
	} {
		f, url := startFake(t, "all")
		code, stdout, stderr := sending(t, tt.stdin, append(strings.Fields(tt.flags), "--whole", "--reply", url)...)
		f.end()
		if code != 0 || stdout != tt.want {
			t.Errorf("%q %s: code %d, %q, want %q; %s", tt.stdin, tt.flags, code, stdout, tt.want, stderr)
		}
	}
}
