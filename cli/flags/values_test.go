package flags

import (
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for in, want := range map[string]uint64{
		"0": 0, "0M": 0, "1048576": 1 << 20, "1048577B": 1<<20 + 1, "1024K": 1 << 20, "1024k": 1 << 20, "1024KiB": 1 << 20,
		"64MiB": 64 << 20, "64M": 64 << 20, "64m": 64 << 20, "64mib": 64 << 20, "1G": 1 << 30, "1GiB": 1 << 30, "1T": 1 << 40,
		"2TiB": 2 << 40, "4194304T": 1 << 62,
	} {
		if got, err := Size(in); err != nil || got != want {
			t.Errorf("Size(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "M", "iB", "1048575", "1023K", "64MB", "64Mi", "64P", "1.5G", "-1", "+64M", "64 M", " 64M", "64M ",
		"6_4M", "0x400000", "4194305T", "18446744073709551615", "18446744073709551616", "64KMG", "6M4M"} {
		if got, err := Size(in); err == nil {
			t.Errorf("Size(%q) = %d, want an error", in, got)
		}
	}
}

func TestOrAuto(t *testing.T) {
	parse := OrAuto(Between(1, 65536))
	for in, want := range map[string]int{"1": 1, "65536": 65536, "auto": 0, "007": 7} {
		if got, err := parse(in); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", in, got, err, want)
		}
	}
}

func TestAtLeast(t *testing.T) {
	parse := AtLeast(time.Second)
	for in, want := range map[string]time.Duration{
		"1s": time.Second, "1000ms": time.Second, "1m30s": 90 * time.Second, "1.5h": 90 * time.Minute, "87600h": MaxDuration,
	} {
		if got, err := parse(in); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", in, got, err, want)
		}
	}
	if 2*MaxDuration < 0 {
		t.Error("twice the longest duration overflows")
	}
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"64MiB", "0", "4194304T", "1048576B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := Size(s); err == nil && n != 0 && (n < 1<<20 || n > 1<<62) {
			t.Errorf("Size(%q) = %d", s, n)
		}
	})
}
