package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"testing"

	"golang.org/x/sys/unix"
)

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

func WriteFrame(w io.Writer, body string) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// FreePort returns a port of loopback for a program of the test to listen on.
// Until the test ends the kernel gives it to nobody who asks for any port: a
// socket holds it, in a way that lets a server bind it that sets SO_REUSEADDR, as
// all do.
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
