package sdk

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

func phpClientOf(t testing.TB, url string, env ...string) *exec.Cmd {
	t.Helper()
	harness.Need(t, "php")
	// default_socket_timeout must not count, nor be needed by a client.
	cmd := exec.Command("php", "-d", "default_socket_timeout=0", "-d", "display_errors=stderr", "testdata/client.php", url)
	cmd.Env = append(os.Environ(), append(env, "SDK="+sdkPHP(t, "Client.php"))...)
	return cmd
}

// phpClientSends runs the client to its end, and returns what it printed.
func phpClientSends(t testing.TB, url, lines string, env ...string) string {
	t.Helper()
	cmd := phpClientOf(t, url, env...)
	cmd.Stdin = strings.NewReader(lines)
	out, _ := cmd.CombinedOutput() // an error shows in the text
	return string(out)
}

// The client gets replies and failures, by TCP and unix sockets.
func TestSDKPHPClient(t *testing.T) {
	big := strings.Repeat("b", 5<<20)
	for _, url := range []string{"tcp://" + harness.FreePort(t), harness.UnixURL(t, "")} {
		harness.StartSDK(t, url+phpAlways, "--max-message", "5MiB", "--attempts", "1")
		lines := "hello\n\nnothing\nrefuse not mine\nfail now\nhell\xf6\x00\x80\n" + big + "\n" + big + "b\nafter\n"
		want := "hello\n\n\nfailure refused not mine\nfailure given-up error: now\nhell\xf6\x00\x80\n" + big + "\nfailure too-big "
		for _, timeout := range []string{"TIMEOUT=60", "TIMEOUT=null"} {
			got := phpClientSends(t, url+phpAlways, lines, timeout)
			if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "\nafter\n") {
				t.Errorf("%.3000q", strings.ReplaceAll(got, big, "BIG"))
			}
		}
	}
}

func TestSDKPHPClientTLS(t *testing.T) {
	harness.Need(t, "openssl")
	needPHPModules(t, "openssl")
	p, dir := harness.StartTLS(t, "&reply=always")
	big := strings.Repeat("b", 1<<20) + "\n"
	if got := phpClientSends(t, "tcp://"+p.Addr, "one\n"+big+"two\n", "CA="+dir+"/server.crt"); got != "one\n"+big+"two\n" {
		t.Errorf("%.300q", got)
	}
	stranger := t.TempDir() + "/stranger"
	harness.IssueCertificate(t, stranger, "stranger")
	if got := phpClientSends(t, "tcp://"+p.Addr, "one\n", "CA="+stranger+".crt"); !strings.HasPrefix(got, "error NoReply ") || !strings.Contains(got, "certificate verify failed") {
		t.Error(got)
	}
}

// Its pool is replaced: each message has its reply.
func TestSDKPHPClientRestart(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"tcp://" + harness.FreePort(t), harness.UnixURL(t, "")} {
		cmd := phpClientOf(t, url, "CONNECT_TIMEOUT=120", "TIMEOUT=120")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out testkit.Output
		cmd.Stdout, cmd.Stderr = &out, &out
		sent := make(chan int, 1) // 1: known before it is asked for
		enough := make(chan struct{})
		acrossRestart(t, url+phpAlways, func() {
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			go func() { // ends with the client, or when there is enough
				n := 0
				for !testkit.IsDone(enough) {
					if _, err := fmt.Fprintln(stdin, "message", n); err != nil {
						break
					}
					n++
				}
				stdin.Close()
				sent <- n
			}()
		}, func() int { return strings.Count(out.String(), "\n") })
		close(enough)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		var want strings.Builder
		for i := range <-sent {
			fmt.Fprintln(&want, "message", i)
		}
		if got := out.String(); got != want.String() {
			t.Errorf("%d replies, want %d; the last: %.300s", strings.Count(got, "\n"), strings.Count(want.String(), "\n"), got[max(0, len(got)-300):])
		}
	}
}

// What becomes of a message is the client's to find out.
func TestSDKPHPClientSendsAgain(t *testing.T) {
	ends := func(c scriptClient) { c.want("EOF") } // the client closes
	url := serve(t,
		both(takes("one", frames("1")), takes("two", failure("stopping: not now")), ends),
		both(takes("two", failure("stopping: not now")), ends),
		both(takes("two", frames("2")), takes("three", "")),
		takes("three", "\x00\x00\x00\x05hal"),
		both(takes("three", frames("3")), takes("four", failure("interrupted: a: b")), takes("five", failure("what")), takes("six", "\x7f\xff\xff\xff")),
		takes("seven", frames("7")),
	)
	want := "1\n2\n3\nfailure interrupted a: b\nfailure what \nerror NoReply " + url + ": the server sent something that is not a reply\n7\n"
	if got := phpClientSends(t, url, "one\ntwo\nthree\nfour\nfive\nsix\nseven\n"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// What it cannot do it says, and waits for no longer than it should.
func TestSDKPHPClientFails(t *testing.T) {
	t.Parallel()
	silent := func(c scriptClient) { c.want("one", "EOF") }
	url := serve(t, silent, takes("two", frames("2")))
	if got := phpClientSends(t, url, "one\ntwo\n", "TIMEOUT=2.5"); !strings.Contains(got, "nothing was heard within 2.5 s") ||
		!strings.Contains(got, "reply=always") || !strings.HasSuffix(got, "\n2\n") {
		t.Error(got)
	}
	stop := both(takes("one", failure("stopping: bye")), func(c scriptClient) { c.want("EOF") })
	var stops []oneConn
	for range 50 {
		stops = append(stops, stop)
	}
	if got := phpClientSends(t, serve(t, stops...), "one\n", "CONNECT_TIMEOUT=2"); got != "failure stopping bye\n" {
		t.Error(got)
	}
	// Once it may have been handled, "stopping" would say too much.
	if got := phpClientSends(t, serve(t, append([]oneConn{takes("one", "")}, stops...)...), "one\n", "CONNECT_TIMEOUT=2"); !strings.HasSuffix(got, "closed the connection without a reply\n") {
		t.Error(got)
	}
	if got := phpClientSends(t, harness.UnixURL(t, ""), "one\n", "CONNECT_TIMEOUT=120"); !strings.HasPrefix(got, "error NoReply unix://") {
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
		if got := phpClientSends(t, url, "one\n"); !strings.Contains(got, says) || strings.Count(got, "\n") != 1 {
			t.Errorf("%q: %s", url, got)
		}
	}
}
