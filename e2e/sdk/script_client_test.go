package sdk

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// clientOf returns the SDK's client, which sends lines to the URL.
func (s scriptSDK) clientOf(t testing.TB, url string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(s.needs, filepath.Join(s.dir(t), cmp.Or(s.client, "client")+s.ext), url)
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// clientSends runs the SDK's client to its end, and returns what it printed.
func (s scriptSDK) clientSends(t testing.TB, url, lines string, env ...string) string {
	t.Helper()
	cmd := s.clientOf(t, url, env...)
	cmd.Stdin = strings.NewReader(lines)
	out, _ := cmd.CombinedOutput() // an error shows in the text
	return string(out)
}

// The client gets replies and failures, by TCP and unix sockets.
func TestSDKScriptClient(t *testing.T) {
	eachScriptClient(t, func(t *testing.T, s scriptSDK) {
		for _, url := range []string{"tcp://" + harness.FreePort(t), harness.UnixURL(t, "")} {
			p := s.startAt(t, url+"?reply=always", "MAX_MESSAGE=1MiB")
			lines := "hello\n\nrefuse not mine\nfail now\nhellö\n" + strings.Repeat("b", 1<<20) + "\n" + strings.Repeat("b", 1<<20+1) + "\nafter\n"
			want := "hello\n\nfailure refused not mine\nfailure given-up after 3 attempts: error: " + s.fails + "\nhellö\n" +
				strings.Repeat("b", 1<<20) + "\nfailure too-big "
			got := s.clientSends(t, url+"?reply=always", lines)
			if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "\nafter\n") {
				t.Errorf("%.3000q", strings.ReplaceAll(got, strings.Repeat("b", 1<<20), "BIG"))
			}
			p.stop(0)
		}
	})
}

func TestSDKScriptClientTLS(t *testing.T) {
	eachScriptClient(t, func(t *testing.T, s scriptSDK) {
		p, dir := harness.StartTLS(t, "&reply=always")
		if got := s.clientSends(t, "tcp://"+p.Addr, "one\ntwo\n", "CA="+dir+"/server.crt"); got != "one\ntwo\n" {
			t.Error(got)
		}
		stranger := t.TempDir() + "/stranger"
		harness.IssueCertificate(t, stranger, "stranger")
		if got := s.clientSends(t, "tcp://"+p.Addr, "one\n", "CA="+stranger+".crt"); !strings.HasPrefix(got, "error ") {
			t.Error(got)
		}
	})
}

// A pool is replaced by another one: its clients do not notice.
func TestSDKScriptClientDeploy(t *testing.T) {
	eachScriptClient(t, func(t *testing.T, s scriptSDK) {
		first := s.start(t)
		cmd := s.clientOf(t, first.url, "CONNECT_TIMEOUT=120", "TIMEOUT=120")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out testkit.Output
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		sent := 0
		deploy := make(chan scriptPool)
		say := func() {
			if _, err := fmt.Fprintln(stdin, "message", sent); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		for range 100 {
			say()
		}
		testkit.Eventually(t, "all are answered", func() (any, bool) { return out.String(), strings.Count(out.String(), "\n") == sent })
		go func() { // ends with the second pool's start, or the test
			defer close(deploy)
			first.stop(0)
			if !t.Failed() {
				deploy <- s.startAt(t, first.url)
			}
		}()
		var second scriptPool
		for up := false; !up; {
			say()
			testkit.Eventually(t, "that was taken", func() (any, bool) {
				select {
				case second, up = <-deploy:
					return nil, true
				default:
					return out.String(), strings.Count(out.String(), "\n") == sent
				}
			})
			if t.Failed() {
				return
			}
		}
		for range 100 {
			say()
		}
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		var want strings.Builder
		for i := range sent {
			fmt.Fprintln(&want, "message", i)
		}
		if out.String() != want.String() {
			t.Errorf("sent %d messages, got %s", sent, out.String())
		}
		second.stop(0)
	})
}

// A script of a server: what it does with each connection.
type oneConn func(scriptClient)

// serve is a server that deals with one connection after the other, as it is told.
func serve(t *testing.T, conns ...oneConn) (url string) {
	t.Helper()
	url = harness.UnixURL(t, "")
	ln, err := net.Listen("unix", strings.TrimPrefix(url, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	var server sync.WaitGroup
	server.Go(func() {
		for _, deal := range conns {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			deal(scriptClient{t, nc})
			nc.Close()
		}
	})
	t.Cleanup(func() {
		ln.Close()
		server.Wait()
	})
	return url
}

// takes reads a message and answers it with a frame; none for "".
func takes(body, frame string) oneConn {
	return func(c scriptClient) {
		if got := c.next(); got != body {
			c.t.Errorf("a client sends %q, want %q", got, body)
		}
		_, _ = io.WriteString(c, frame) // the client notices
	}
}

func both(conns ...oneConn) oneConn {
	return func(c scriptClient) {
		for _, deal := range conns {
			deal(c)
		}
	}
}

// failure is a failure frame.
func failure(text string) string {
	frame := []byte(frames(text))
	frame[0] |= 0x80
	return string(frame)
}

// What becomes of a message is the client's to find out.
func TestSDKScriptClientSendsAgain(t *testing.T) {
	eachScriptClient(t, func(t *testing.T, s scriptSDK) {
		ends := func(c scriptClient) { c.want("EOF") } // the client closes
		url := serve(t,
			both(takes("one", frames("1")), takes("two", failure("stopping: not now")), ends),
			both(takes("two", failure("stopping: not now")), ends),
			both(takes("two", frames("2")), takes("three", "")),
			takes("three", "\x00\x00\x00\x05hal"),
			both(takes("three", frames("3")), takes("four", failure("interrupted: a: b")), takes("five", failure("what")), takes("six", "\x7f\xff\xff\xff")),
			takes("seven", frames("7")),
		)
		want := "1\n2\n3\nfailure interrupted a: b\nfailure what \nerror WHO the server sent something that is not a reply\n7\n"
		got := s.clientSends(t, url, "one\ntwo\nthree\nfour\nfive\nsix\nseven\n")
		if got = errorsName.ReplaceAllString(got, "error WHO "); got != want {
			t.Errorf("%s\nwant\n%s", got, want)
		}
	})
}

var errorsName = regexp.MustCompile(`error \w* `)

// What it cannot do it says, and waits for no longer than it should.
func TestSDKScriptClientFails(t *testing.T) {
	eachScriptClient(t, func(t *testing.T, s scriptSDK) {
		silent := func(c scriptClient) { c.want("one", "EOF") }
		url := serve(t, silent, takes("two", frames("2")))
		if got := s.clientSends(t, url, "one\ntwo\n", "TIMEOUT=3"); !strings.Contains(got, "nothing was heard within 3") ||
			!strings.Contains(got, "reply=always") || !strings.HasSuffix(got, "\n2\n") {
			t.Error(got)
		}
		stops := both(takes("one", failure("stopping: bye")), func(c scriptClient) { c.want("EOF") })
		url = serve(t, stops, stops, stops, stops, stops, stops, stops, stops, stops, stops, stops, stops)
		if got := s.clientSends(t, url, "one\n", "CONNECT_TIMEOUT=2"); got != "failure stopping bye\n" {
			t.Error(got)
		}
		if got := s.clientSends(t, harness.UnixURL(t, ""), "one\n", "CONNECT_TIMEOUT=120"); !strings.HasPrefix(got, "error ") {
			t.Error(got)
		}
		for url, says := range map[string]string{
			"":                              "is no address of a pool",
			"127.0.0.1:8089":                "is no address of a pool",
			"http://127.0.0.1:8089":         "is no address of a pool",
			"tcp://127.0.0.1":               "is no address of a pool",
			"tcp://127.0.0.1:x":             "is no address of a pool",
			"tcp://127.0.0.1:99999":         "is no address of a pool",
			"tcp://127.0.0.1:8089/x":        "is no address of a pool",
			"unix://run/pool.sock":          "is no address of a pool",
			"sysv://0x7000001":              "is no address of a pool",
			"tcp://127.0.0.1:1?once=true":   "once=true",
			"tcp://127.0.0.1:1?reply=never": "has no replies",
		} {
			if got := s.clientSends(t, url, "one\n"); !strings.Contains(got, says) || strings.Count(got, "\n") != 1 {
				t.Errorf("%q: %s", url, got)
			}
		}
	})
}
