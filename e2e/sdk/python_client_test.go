package sdk

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// A client forks while another of its threads waits for a reply. The child gets
// through, by a connection of its own, and leaves its parent's alone.
func TestSDKPythonClientFork(t *testing.T) {
	harness.Need(t, "python3")
	url := harness.UnixURL(t, "")
	ln, err := net.Listen("unix", strings.TrimPrefix(url, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	var server sync.WaitGroup
	over := make(chan struct{})
	server.Go(func() { forkServer(ln, &server, over) })
	cmd := exec.Command("timeout", fmt.Sprint(testkit.Patience.Seconds()), pythonSDK.interpreter(t), "-W", "ignore", "-c", `
import os, sys, threading, poolinit
def say(text):
    os.write(1, (text + "\n").encode()) # at once: print may write the end of line later
client = poolinit.Client(sys.argv[1])
say(client.send("one").decode())
thread = threading.Thread(target=lambda: say(client.send("wait").decode()))
thread.start()
while not client._lock.locked():
    pass
pid = os.fork()
if pid == 0:
    say(client.send("child").decode())
    say(client.send("again").decode())
    client.close()
    os._exit(0)
_, status = os.waitpid(pid, 0)
thread.join()
say("%s %d" % (client.send("parent").decode(), status))
`, url)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+pythonSDK.dir(t))
	out, err := cmd.CombinedOutput()
	close(over)
	ln.Close()
	server.Wait()
	text := string(out)
	for _, want := range []string{"1 one\n", "1 wait\n", "2 child\n", "2 again\n", "1 parent 0\n"} {
		if text = strings.Replace(text, want, "", 1); !strings.Contains(string(out), want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	if err != nil || text != "" {
		t.Errorf("%v: %s", err, out)
	}
}

// forkServer answers each message with itself and the number of its connection,
// but "wait" only when the second connection has sent two.
func forkServer(ln net.Listener, server *sync.WaitGroup, over <-chan struct{}) {
	second := make(chan struct{})
	for n := 1; ; n++ {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		server.Go(func() {
			defer nc.Close()
			for count := 1; ; count++ {
				body, _, err := harness.ReadFrame(nc)
				if err != nil {
					return
				}
				if n == 2 && count == 2 {
					close(second)
				}
				if string(body) == "wait" {
					select {
					case <-second:
					case <-over:
						return
					}
				}
				_, _ = io.WriteString(nc, frames(fmt.Sprintf("%d %s", n, body))) // the client notices
			}
		})
	}
}
