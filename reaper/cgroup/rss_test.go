package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRSS(t *testing.T) {
	before, err := RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const more = 64 << 20
	held, err := unix.Mmap(-1, 0, more, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(held)
	after, err := RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if before < 1<<20 || after < before+more/2 {
		t.Errorf("%d bytes, with %d more %d", before, more, after)
	}
}

func TestRSSOfNobody(t *testing.T) {
	for _, pid := range []int{1 << 22, -1} { // the highest possible pid is one less
		if n, err := RSS(pid); n != 0 || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("process %d: %d, %v", pid, n, err)
		}
	}
}

func TestResidentPages(t *testing.T) {
	tests := []struct {
		statm string
		pages uint64
		ok    bool
	}{
		{"2273 885 842 7 0 120 0\n", 885, true},
		{"0 0 0 0 0 0 0\n", 0, true},
		{"", 0, false},
		{"12\n", 0, false},
		{"12 34", 0, false}, // cut off: the number may go on
		{"1 x 2", 0, false},
	}
	for _, tt := range tests {
		if pages, ok := residentPages([]byte(tt.statm)); ok != tt.ok || ok && pages != tt.pages {
			t.Errorf("%q: %d, %v", tt.statm, pages, ok)
		}
	}
}

func BenchmarkRSS(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, _ = RSS(os.Getpid())
	}
}
