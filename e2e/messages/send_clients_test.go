package messages

import (
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// The seed's client, byte for byte, which closes as soon as it has written.
func TestSendSeedClient(t *testing.T) {
	harness.Need(t, "php")
	p := harness.Start(t, harness.Program{Child: harness.AloneChild,
		Args: []string{harness.Self(t), harness.Binary(t), "run", "--listen", "tcp://127.0.0.1:8089", "-n", "2", "--", harness.SDKWorker(t)}})
	p.Stderr.Expect(t, "accepting messages")
	for n := 1; n <= 3; n++ {
		cmd := exec.Command(harness.Self(t), strconv.Itoa(p.PID), "php", "../testdata/seed/client.php")
		cmd.Env = append(cmd.Environ(), "TEST_CHILD="+harness.JoinChild)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("%v\n%s", err, out)
		}
		testkit.Eventually(t, "the message", func() (any, bool) {
			got := strings.Count(p.Stdout.String(), `message: {"data":"hello","uid":1991}`+"\n")
			return p.Stdout.String(), got == n
		})
	}
}

// What everybody has at hand is a client.
func TestSendOtherClients(t *testing.T) {
	for name, tt := range map[string]struct {
		needs, script, want string
	}{
		"nc":         {"nc", `printf '\0\0\0\5hello' | nc -N -U "$0"`, "\x00\x00\x00\x05hello"},
		"nc, failed": {"nc", `printf '\0\0\0\11refuse me' | nc -N -U "$0"`, "\x80\x00\x00\x0brefused: me"},
		"python3": {"python3", `exec python3 -c '
import socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
for body in b"one", b"two", b"three":
    s.sendall(struct.pack(">I", len(body)) + body)
r = s.makefile("rb")
for _ in range(3):
    print(r.read(struct.unpack(">I", r.read(4))[0]).decode())
' "$0"`, "one\ntwo\nthree\n"},
		"php": {"php", `exec php -r '
$fp = stream_socket_client("unix://" . $argv[1]);
fwrite($fp, pack("N", 5) . "hello");
echo fread($fp, unpack("N", fread($fp, 4))[1]);
' "$0"`, "hello"},
	} {
		t.Run(name, func(t *testing.T) {
			harness.Need(t, tt.needs)
			url := harness.UnixURL(t, "")
			harness.StartSDK(t, url)
			harness.RunClient(t, nil, "sh", "-c", tt.script, strings.TrimPrefix(url, "unix://")).Want(t, tt.want, 0)
		})
	}
}

// Who says nothing keeps nobody waiting. (Swoole serves the third after 60 s.)
func TestSendBesideSilentConnections(t *testing.T) {
	url := harness.UnixURL(t, "")
	harness.StartSDK(t, url)
	silent := harness.Dial(t, url)
	begun := harness.Dial(t, url)
	if _, err := fmt.Fprint(begun, "\x00\x00"); err != nil {
		t.Fatal(err)
	}
	harness.Send(t, strings.NewReader("third\n"), url).Want(t, "third\n", 0)
	if _, err := fmt.Fprint(silent, "\x00\x00\x00\x02me"); err != nil {
		t.Fatal(err)
	}
	_ = silent.SetReadDeadline(time.Now().Add(testkit.Patience))
	buf := make([]byte, 6)
	if n, err := io.ReadFull(silent, buf); string(buf[:n]) != "\x00\x00\x00\x02me" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}
