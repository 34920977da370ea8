package daemon

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/ipc/sources"
	"github.com/poolinit/poolinit/ipc/stream"
	"github.com/poolinit/poolinit/supervisor/output"
)

// A build that fails leaves no socket behind, whichever of them it is that cannot
// be bound.
func TestBuildThatFailsClosesAll(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	for _, tt := range []struct{ share, http, listen, want string }{
		{share: "tcp://" + address, want: "address already in use"},
		{http: address, want: "cannot serve HTTP: "},
		{http: "127.0.0.1:0", listen: "tcp://" + address, want: "address already in use"},
	} {
		dir := t.TempDir()
		cfg := &Config{Command: []string{"true"}, Deliver: "frames", HTTP: tt.http}
		cfg.Pool.Workers = 1
		cfg.Share = append(cfg.Share, parse(t, stream.ParseShare, "unix://"+filepath.Join(dir, "share")))
		if tt.share != "" {
			cfg.Share = append(cfg.Share, parse(t, stream.ParseShare, tt.share))
		}
		if tt.listen != "" {
			cfg.Listen = append(cfg.Listen, parse(t, sources.Parse, "unix://"+filepath.Join(dir, "listen")), parse(t, sources.Parse, tt.listen))
		}
		var text bytes.Buffer
		d, err := Build(cfg, output.NewRelay(output.Inherit, &text, &text), testLogger(&text))
		if d != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt, err, tt.want)
		}
		for _, name := range []string{"share", "listen"} {
			if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%+v: %s is left: %v", tt, name, err)
			}
		}
	}
}

func parse[T any](t *testing.T, parse func(string) (T, error), s string) T {
	t.Helper()
	x, err := parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// What is opened later may need what was opened before.
func TestClosersCloseBackwards(t *testing.T) {
	var order []int
	var c closers
	for i := range 3 {
		c.add(func() { order = append(order, i) })
	}
	if c.close(); len(order) != 3 || order[0] != 2 || order[2] != 0 {
		t.Errorf("%v", order)
	}
}
