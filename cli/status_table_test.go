package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/poolinit/poolinit/metrics/status"
)

// exampleStatus is the document of docs/status.md, which a test of status keeps true.
func exampleStatus(t *testing.T) *status.Document {
	t.Helper()
	_, rest, ok := strings.Cut(document(t, "docs/status.md"), "\n```json\n")
	block, _, ok2 := strings.Cut(rest, "```\n")
	d := new(status.Document)
	if err := json.Unmarshal([]byte(block), d); !ok || !ok2 || err != nil {
		t.Fatalf("docs/status.md has no document: %v", err)
	}
	return d
}

// docs/status.md shows the table of the example. go test ./cli -run README -update
// writes it there.
func TestREADMEHasStatusTable(t *testing.T) {
	want := table(exampleStatus(t), false, false)
	for name, head := range map[string]string{"docs/status.md": "\n## The table\n"} {
		start, rest, ok := strings.Cut(document(t, name), head)
		between, rest, ok2 := strings.Cut(rest, "\n```text\n")
		was, after, ok3 := strings.Cut(rest, "```\n")
		switch {
		case !ok || !ok2 || !ok3:
			t.Errorf("%s has no block ```text after %q", name, head)
		case was == want:
		case *update:
			if err := os.WriteFile("../"+name, []byte(start+head+between+"\n```text\n"+want+"```\n"+after), 0o644); err != nil {
				t.Error(err)
			}
		default:
			t.Errorf("%s does not have this table: go test ./cli -run README -update\n%s", name, want)
		}
	}
}

// Each number ends where its column's name does, each text begins there, and there
// is no gap that awk would take for a missing field.
func TestTableIsAligned(t *testing.T) {
	d := exampleStatus(t)
	d.Workers = append(d.Workers, status.Worker{ID: 10_000, PID: 4_194_304, State: "detached", StateFor: 1e7, Memory: 1 << 50, Handled: 1 << 60, Text: "ü"})
	text := table(d, false, false)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	word := regexp.MustCompile(`\S+`)
	var heads []string
	var at [][]int
	rows := 0
	for _, line := range lines {
		if strings.HasPrefix(line, "WORKER") || strings.HasPrefix(line, "SOURCE") || strings.HasPrefix(strings.TrimSpace(line), "WORKER") {
			heads, at = word.FindAllString(line, -1), word.FindAllStringIndex(line, -1)
			continue
		}
		if heads == nil || line == "" {
			continue
		}
		rows++
		for i, span := range word.FindAllStringIndex(line, -1) {
			switch heads[i] {
			case "LAST-EXIT":
				if span[0] != at[i][0] {
					t.Errorf("LAST-EXIT begins elsewhere:\n%s", line)
				}
			case "STATE", "SOURCE":
				if span[0] != at[i][0] {
					t.Errorf("%s is not at the left:\n%s", heads[i], line)
				}
				continue
			default:
				if span[1] != at[i][1] {
					t.Errorf("%s is not at the right:\n%s", heads[i], line)
				}
				continue
			}
			break
		}
		if strings.TrimRight(line, " ") != line {
			t.Errorf("%q ends in blanks", line)
		}
	}
	if rows != len(d.Workers)+len(d.Sources) {
		t.Errorf("%d rows\n%s", rows, text)
	}
}

// Without messages nothing is said of them.
func TestTableWithoutMessages(t *testing.T) {
	d := exampleStatus(t)
	d.Queue, d.Sources, d.Reload, d.Wanted = nil, nil, status.Reload{State: "none"}, 1
	d.Workers = []status.Worker{{ID: 0, PID: 7, Generation: 1, State: "ready", StateFor: 62, Starts: 1, Memory: 5 << 20, CPU: .25}}
	want := "poolinit v1.2.3, PID 1, up 5d3h, generation 3: ready\n\n" +
		"WORKER  PID  GEN  STATE   FOR  STARTS  MEMORY    CPU  LAST-EXIT  STATUS\n" +
		"     0    7    1  ready  1m2s       1    5MiB  250ms  -\n"
	if got := table(d, false, false); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestTableHead(t *testing.T) {
	for _, tt := range []struct {
		change func(*status.Document)
		want   string
	}{
		{func(d *status.Document) { d.Ready, d.Reason = false, "no worker is ready" }, "generation 3: not ready: no worker is ready\n"},
		{func(d *status.Document) { d.Ready, d.Stopping = false, "SIGTERM" }, "generation 3: stopping: SIGTERM\n"},
		{func(d *status.Document) { d.Reload = status.Reload{State: "done", Took: 1.52, Replaced: 4} }, "\nreload: done in 1.5s\n"},
		{func(d *status.Document) {
			d.Reload = status.Reload{State: "failed", Replaced: 1, Reason: "new worker 1"}
		}, "\nreload: failed after 1 of 4: new worker 1\n"},
		{func(d *status.Document) {
			d.Reload = status.Reload{State: "interrupted", Reason: "the pool is stopping"}
		}, "\nreload: interrupted after 0 of 4: the pool is stopping\n"},
		{func(d *status.Document) { d.Reload.Queued = true }, "\nreload: running for 2.1s, 1 of 4 replaced; another one follows\n"},
		{func(d *status.Document) { d.Queue = &status.Queue{LimitMessages: 1, LimitBytes: 1 << 20} }, "\nqueue: 0 of 1 messages, 0B of 1MiB, oldest -; in flight 0\n"},
		{func(d *status.Document) { d.Queue.Paused, d.Queue.Delayed = true, 0 }, "; in flight 9; paused\n"},
		{func(d *status.Document) { d.Queue.Delayed, d.Queue.Isolated = 3, 2 }, "; in flight 9; 3 wait for a retry; 2 isolated\n"},
		{func(d *status.Document) { d.Wanted = 2 }, "\nworkers: 2 wanted, 4 there\n"},
		{func(d *status.Document) { d.Workers[2].Failing = true }, "  failing, importing orders\n"},
		{func(d *status.Document) { d.Workers[1].Newborn = true }, "  newborn\n"},
	} {
		d := exampleStatus(t)
		tt.change(d)
		if got := table(d, false, false); !strings.Contains(got, tt.want) {
			t.Errorf("%q is not in\n%s", tt.want, got)
		}
	}
}

// Of the example 80 columns show how each worker's last process ended, whole. All
// else is still there, further to the right.
func TestTableOnNarrowTerminal(t *testing.T) {
	d := exampleStatus(t)
	for _, messages := range []bool{true, false} {
		if !messages {
			d.Queue, d.Sources = nil, nil
		}
		text := table(d, false, true)
		seen := screen(text, 80, 24)
		for i := range d.Workers {
			if want := lastExit(d, &d.Workers[i]).text; !strings.Contains(seen, want) {
				t.Errorf("%q is not to be seen in\n%s", want, seen)
			}
		}
		words := func(s string) []string { return slices.Sorted(strings.FieldsSeq(s)) }
		if whole := table(d, false, false); !slices.Equal(words(text), words(whole)) {
			t.Errorf("%s\nhas not the words of\n%s", text, whole)
		}
	}
}

var colour = regexp.MustCompile("\x1b\\[[0-9]*m")

// Colours come only when they are asked for, and change nothing else.
func TestTableColours(t *testing.T) {
	d := exampleStatus(t)
	plain, coloured := table(d, false, false), table(d, true, false)
	if strings.ContainsRune(plain, '\x1b') {
		t.Errorf("colours that nobody wants: %q", plain)
	}
	if colour.ReplaceAllString(coloured, "") != plain {
		t.Errorf("%s\nis not\n%s", coloured, plain)
	}
	for _, want := range []string{red + "backoff" + colourOff, green + "busy" + colourOff, yellow + "stopping" + colourOff, bold + "WORKER" + colourOff} {
		if !strings.Contains(coloured, want) {
			t.Errorf("no %q", want)
		}
	}
	if on, off := strings.Count(coloured, "\x1b[")-strings.Count(coloured, colourOff), strings.Count(coloured, colourOff); on != off {
		t.Errorf("%d begin, %d end", on, off)
	}
}

// evil is what a worker may want a terminal to do.
const evil = "\x1b[2J\x1b]0;title\x07\x9b31m\nWORKER\r\b\x00\u202e\u2028\u200b\xff"

// What others have written cannot act on the terminal, or look like a line of its own.
func TestTableIsHarmless(t *testing.T) {
	clean := table(exampleStatus(t), false, false)
	d := exampleStatus(t)
	d.Version += evil
	d.Reload = status.Reload{State: "failed" + evil, Reason: evil}
	for i := range d.Workers {
		w := &d.Workers[i]
		w.Text, w.State, w.NextStart = evil, w.State+evil, 0
		w.LastExit.Text = evil
	}
	d.Sources[0].Name += evil
	for _, head := range []func(){
		func() {}, func() { d.Ready, d.Reason = false, evil }, func() { d.Stopping = evil },
	} {
		head()
		got := table(d, false, false)
		for _, r := range got {
			if r != '\n' && r != utf8.RuneError && !unicode.IsPrint(r) {
				t.Errorf("%q is in the table", r)
			}
		}
		if strings.Count(got, "\n") != strings.Count(clean, "\n") {
			t.Errorf("it has other lines:\n%s", got)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", -time.Second: "0s", 99 * time.Microsecond: "0s", 400 * time.Microsecond: "0s", time.Millisecond: "1ms", 12345 * time.Microsecond: "12ms",
		999600 * time.Microsecond: "1s", 1340 * time.Millisecond: "1.3s", 59*time.Second + 970*time.Millisecond: "1m0s", 90 * time.Second: "1m30s",
		10 * time.Minute: "10m0s", time.Hour: "1h0m", 3*time.Hour + 4*time.Minute + 5*time.Second: "3h4m", 23*time.Hour + 59*time.Minute + 40*time.Second: "24h0m",
		24 * time.Hour: "1d0h", 123*time.Hour + 59*time.Minute: "5d3h", 10 * 365 * 24 * time.Hour: "3650d0h",
	} {
		if got := span(d.Seconds()); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

func TestBytesOf(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 1023: "1023B", 1024: "1KiB", 1536: "1.5KiB", 10 << 10: "10KiB", 5<<20 + 1<<19: "5.5MiB", 301<<20 + 1<<19: "302MiB",
		64 << 30: "64GiB", 3 << 40: "3TiB", 1 << 60: "1048576TiB",
	} {
		if got := bytesOf(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		line  string
		width int
		want  string
	}{
		{"", 3, ""}, {"abc", 3, "abc"}, {"abcd", 3, "ab" + colourOff + ">"}, {"äöü", 3, "äöü"}, {"äöüß", 3, "äö" + colourOff + ">"},
		{red + "abc" + colourOff, 3, red + "abc" + colourOff}, {red + "abcd" + colourOff, 3, red + "ab" + colourOff + ">"},
		{"a" + red + "b" + colourOff + "cd", 3, "a" + red + "b" + colourOff + colourOff + ">"}, {"abc", 1, colourOff + ">"},
	} {
		if got := cut(tt.line, tt.width); got != tt.want {
			t.Errorf("%q in %d columns: %q, want %q", tt.line, tt.width, got, tt.want)
		}
	}
}

// A screen has each line at its place, clears what was there, and never scrolls.
func TestScreen(t *testing.T) {
	text := func(lines int) (s string) {
		for i := range lines {
			s += fmt.Sprintf("line %d\n", i+1)
		}
		return s
	}
	line := func(s string) string { return clearLine + s + "\n" }
	for _, tt := range []struct {
		text          string
		width, height int
		want          string
	}{
		{text(2), 80, 24, line("line 1") + line("line 2")},
		{text(3), 80, 4, line("line 1") + line("line 2") + line("line 3")},
		{text(4), 80, 4, line("line 1") + line("line 2") + line("... and 2 lines more")},
		{text(100), 80, 4, line("line 1") + line("line 2") + line("... and 98 lines more")},
		{text(100), 80, 2, line("... and 100 lines more")},
		{"one\n\ntwo\n", 2, 24, line("o"+colourOff+">") + line("") + line("t"+colourOff+">")},
		{"", 80, 24, line("")},
	} {
		if got := screen(tt.text, tt.width, tt.height); got != toTop+tt.want+clearRest {
			t.Errorf("%.20q on %dx%d: %q, want %q", tt.text, tt.width, tt.height, got, tt.want)
		}
	}
}
