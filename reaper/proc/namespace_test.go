package proc

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The number in the link is the inode that the link leads to.
func TestNamespace(t *testing.T) {
	id, err := Namespace()
	if err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/pid", &st); err != nil || id != strconv.FormatUint(st.Ino, 10) {
		t.Errorf("%q, and the inode is %d, %v", id, st.Ino, err)
	}
}

func TestOnlyHere(t *testing.T) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	fields := 0
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields = len(strings.Fields(rest))
		}
	}
	if only, err := OnlyHere(os.Getpid()); only != (fields == 1) || err != nil {
		t.Errorf("this process: %v, %v, with %d PIDs", only, err, fields)
	}
	for _, pid := range noProcess {
		if only, err := OnlyHere(pid); only || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("process %d: %v, %v", pid, only, err)
		}
	}
}

func TestHasOnePID(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tx\nNSpid:\t12\nNSpgid:\t1 2\n": true,
		"NSpid:\t12":                           true,
		"NSpid:\t12\t1\n":                      false,
		"NSpid:\t12 1 1\n":                     false,
		"NSpid:\n":                             false,
		"NSpid:\t\n":                           false,
		"":                                     false,
		"Name:\tx\n":                           false,
		"NStgid:\t12\n":                        false,
		"Name:\tNSpid:\t1\nNSpid:\t1\t2\n":     false, // a name cannot have an end of line here
	} {
		if got := hasOnePID([]byte(status)); got != want {
			t.Errorf("%q: %v", status, got)
		}
	}
}

func FuzzHasOnePID(f *testing.F) {
	f.Add([]byte("NSpid:\t12\n"))
	f.Add([]byte("NSpid:\t12\t1\nNSpid:"))
	f.Fuzz(func(t *testing.T, status []byte) {
		if hasOnePID(status) && !strings.Contains(string(status), "NSpid:") {
			t.Error("from a text without NSpid")
		}
	})
}
