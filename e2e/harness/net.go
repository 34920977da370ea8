package harness

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
)

// ReadFrame reads a frame of the protocol: its body, and whether it is a failure.
func ReadFrame(r io.Reader) (body []byte, failed bool, err error) {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, false, err
	}
	n := binary.BigEndian.Uint32(h[:])
	body = make([]byte, n&^(1<<31))
	_, err = io.ReadFull(r, body)
	return body, n>>31 == 1, err
}

// WriteFrame writes a frame of the protocol.
func WriteFrame(w io.Writer, body string) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// FreePort returns an address of loopback for a program of the test to listen on.
// Until the test ends the kernel gives the port to no socket that asks for any:
// another socket holds it, in a way that lets a server bind it that sets
// SO_REUSEADDR, as all do.
func FreePort(t testing.TB) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		t.Fatal(err)
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", addr.(*unix.SockaddrInet4).Port)
}

// Get returns the body of an answer.
func Get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// FetchChild prints what an address answers.
var FetchChild = Child("fetch", func(args []string) int {
	text, err := Get(http.DefaultClient, args[0])
	if err != nil {
		return Failed(err)
	}
	fmt.Print(text)
	return 0
})

var httpLine = regexp.MustCompile(`"address":"(http://[^"]+)"[^\n]*"message":"serving metrics, health and status over HTTP"`)

// HTTPAddress returns where a pool with --http 127.0.0.1:0 serves.
func HTTPAddress(p *Process) (base string) {
	p.T.Helper()
	testkit.Eventually(p.T, "it serves by HTTP", func() (any, bool) {
		log := p.Stderr.String()
		if m := httpLine.FindStringSubmatch(log); m != nil {
			base = m[1]
		}
		return log, base != ""
	})
	return base
}

// Page returns the status and the body of an answer.
func Page(t testing.TB, address string) (code int, body string) {
	t.Helper()
	client := &http.Client{Timeout: testkit.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// Metric returns a sample of a pool's, by name and labels.
func Metric(t testing.TB, base, key string) float64 {
	t.Helper()
	_, text := Page(t, base+"/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("there is no %s in\n%s", key, text)
	return 0
}

// AwaitMetric waits until a sample of a pool's has a value.
func AwaitMetric(t testing.TB, base, key string, want float64) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprint(key, " ", want), func() (any, bool) {
		got := Metric(t, base, key)
		return got, got == want
	})
}
