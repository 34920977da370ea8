package stream

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// A process that stops removes its own socket file, and not that of another which
// has bound the path since.
func TestSocketFileOfAnother(t *testing.T) {
	for name, open := range map[string]func(t *testing.T, url string) (end func()){
		"source": func(t *testing.T, url string) func() {
			u, err := parseURL(url)
			if err != nil {
				t.Fatal(err)
			}
			src, err := u.open(ipc.NewQueue(ipctest.Config(nil), zerolog.Nop()), zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			return src.Close
		},
		"share": func(t *testing.T, url string) func() {
			s, err := ParseShare(url)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Open(nil); err != nil {
				t.Fatal(err)
			}
			return s.Close
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			first := open(t, "unix://"+path)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			second := open(t, "unix://"+path)
			first()
			nc, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal("the second one's file is gone:", err)
			}
			nc.Close()
			second()
			if _, err := os.Lstat(path); !os.IsNotExist(err) {
				t.Error("the file is still there:", err)
			}
			third := open(t, "unix://"+path)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			third() // without its file
		})
	}
}
