package proc

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"testing"
)

func TestParseStat(t *testing.T) {
	for line, want := range map[string]Stat{
		"7 (sleep) S 1 7 7 0 -1 4194304 1 2":       {'S', 1, 7, 4194304},
		"7 (sleep) Z 3 8 7 0 -1 4194304 1 2":       {'Z', 3, 8, 4194304},
		"7 (a) Z 4 (b) S 1 7 7 0 -1 4194560 1 2":   {'S', 1, 7, 4194560},
		"7 (a) S 4 ) D 1 7 7 0 -1 4228108 1 2":     {'D', 1, 7, 4228108},
		"7 (a\nb) R 1 7 7 0 -1 4 1 2":              {'R', 1, 7, 4},
		"7 () I 0 0 0 0 -1 18446744073709551615\n": {'I', 0, 0, 1<<64 - 1},
		"": {}, "7 (sleep": {}, "7 (sleep) S 1": {}, "7 (sleep) S 1 7 7 0 -1\n": {},
		"7 (sleep) S 1 7 7 0 -1 x 1":    {},
		"7 (sleep) S x 7 7 0 -1 4 1":    {},
		"7 (sleep) S 1 x 7 0 -1 4 1":    {},
		"7 (sleep) SS 1 7 7 0 -1 4 1 2": {},
	} {
		if got, err := parseStat([]byte(line)); got != want || (err != nil) != (want == Stat{}) {
			t.Errorf("%q: %+v, %v; want %+v", line, got, err, want)
		}
	}
}

func TestStatSays(t *testing.T) {
	for _, tt := range []struct {
		stat                   Stat
		alive, zombie, exiting bool
	}{
		{Stat{State: 'S', Flags: 4194304}, true, false, false},
		{Stat{State: 'T'}, true, false, false},
		{Stat{State: 'R', Flags: 4194308}, true, false, true},
		{Stat{State: 'D', Flags: 4228108}, true, false, true},
		{Stat{State: 'Z', Flags: 4194304}, false, true, true},
		{Stat{State: 'X'}, false, true, true},
		{Stat{State: 'x'}, false, true, true},
		{Stat{}, false, false, false},
	} {
		s := tt.stat
		if s.Alive() != tt.alive || s.Zombie() != tt.zombie || s.Exiting() != tt.exiting {
			t.Errorf("%c, flags %d: alive %v, zombie %v, exiting %v", s.State, s.Flags, s.Alive(), s.Zombie(), s.Exiting())
		}
	}
}

func TestStatOf(t *testing.T) {
	s, err := StatOf(os.Getpid())
	if err != nil || !s.Alive() || s.Exiting() || s.Parent != os.Getppid() || s.Group != syscall.Getpgrp() {
		t.Errorf("this process: %+v, %v", s, err)
	}
	for _, pid := range noProcess {
		if s, err := StatOf(pid); s != (Stat{}) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("process %d: %+v, %v", pid, s, err)
		}
	}
}

func TestPIDs(t *testing.T) {
	pids, err := PIDs()
	if err != nil || !slices.Contains(pids, os.Getpid()) || slices.Min(pids) < 1 {
		t.Errorf("%v, %v, and this is process %d", pids, err, os.Getpid())
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (sleep) S 1 7 7 0 -1 4194304 1 2"))
	f.Add([]byte("7 (a) Z 4 (b) S 1 7 7 0 -1 4194560 1 2"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if s, err := parseStat(line); err != nil && s != (Stat{}) || err == nil && s.State == 0 && s.Alive() {
			t.Errorf("%+v, %v", s, err)
		}
	})
}
