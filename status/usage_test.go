package status

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// statLine is one of proc_pid_stat(5), of a process with that name: fields 3 to 52.
func statLine(name, utime, stime, rss string) string {
	fields := strings.Fields("S 1 12 12 0 -1 4194304 100 200 0 0 U T 7 8 20 0 1 0 5000 1000000 R 18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0")
	for i, f := range fields {
		switch f {
		case "U":
			fields[i] = utime
		case "T":
			fields[i] = stime
		case "R":
			fields[i] = rss
		}
	}
	return "12 (" + name + ") " + strings.Join(fields, " ") + "\n"
}

func TestParseStat(t *testing.T) {
	page := uint64(os.Getpagesize())
	for _, name := range []string{"php", "", "a b", "a) b", ") R 1 (", "(((", "x) S 1 2 3 4 5 6 7 8 9 10 11", "a\nb", "\xff\xfe", strings.Repeat(")", 15)} {
		got, err := parseStat([]byte(statLine(name, "250", "7", "300")))
		if want := (Usage{RSS: 300 * page, CPU: 2570 * time.Millisecond}); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", name, got, err, want)
		}
	}
	whole := statLine("x", "1", "2", "3")
	for _, line := range []string{
		"", "12", "12 (x", "12 (x)", "12 (x) S", statLine("x", "1", "2", "-3"), statLine("x", "-1", "2", "3"),
		statLine("x", "1", "two", "3"), statLine("x", "18446744073709551616", "2", "3"), statLine("x", "1", "2", "18446744073709551615"),
		whole[:strings.Index(whole, " 1000000 ")], // up to field 22
	} {
		if got, err := parseStat([]byte(line)); err == nil || got != (Usage{}) {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add(statLine("php", "250", "7", "300"))
	f.Add(statLine(") R (", "0", "0", "99999999999"))
	f.Add("1 () 1 2 3")
	f.Fuzz(func(t *testing.T, line string) {
		got, err := parseStat([]byte(line))
		if err != nil && got != (Usage{}) || got.CPU < 0 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestUsageOf(t *testing.T) {
	buf := make([]byte, 1024)
	got, err := usageOf(os.Getpid(), buf)
	if err != nil || got.RSS < 1<<20 || got.RSS > 1<<36 {
		t.Errorf("%+v, %v", got, err)
	}
	for deadline := time.Now().Add(30 * time.Second); got.CPU == 0 && time.Now().Before(deadline); {
		_ = fmt.Sprint(strings.Repeat("x", 1<<16)) // some work
		got, _ = usageOf(os.Getpid(), buf)
	}
	if got.CPU == 0 {
		t.Error("no CPU time")
	}
	if got, err := usageOf(1<<22+1, buf); err == nil {
		t.Errorf("of no process: %+v", got)
	}
}
