package examples

import (
	"encoding/binary"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
)

// The filter runs once a message; a message that it fails is given up.
func TestFilter(t *testing.T) {
	need(t, "jq")
	poolinit := build(t, "..", ".", "poolinit")
	socket := t.TempDir() + "/pool.sock"
	var out testkit.Output
	cmd := exec.Command(poolinit, "--deliver", "exec", "--attempts", "1", "--listen", "unix://"+socket, "--", "./filter.jq")
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // unless the test was good
		_ = cmd.Wait()
	}()
	out.Expect(t, "accepting messages")
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
	for body, want := range map[string]string{
		`{"uid":1991,"data":"hello"}`: `{"uid":1991,"greeting":"hello, user 1991","attempt":1}` + "\n",
		`{"data":"hello"}`:            "given-up: the command exited with code 5",
	} {
		if _, err := nc.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
			t.Fatal(err)
		}
		var header [4]byte
		if _, err := io.ReadFull(nc, header[:]); err != nil {
			t.Fatal(err)
		}
		reply := make([]byte, binary.BigEndian.Uint32(header[:])&^(1<<31))
		if _, err := io.ReadFull(nc, reply); err != nil {
			t.Fatal(err)
		}
		failed := header[0]&0x80 != 0
		if string(reply) != want || failed != strings.HasPrefix(want, "given-up") {
			t.Errorf("%s: %q, want %q\n%s", body, reply, want, out.String())
		}
	}
}
