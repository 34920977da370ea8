package control

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/supervisor"
)

// docs/status.md has every field of an answer, and no other.
func TestEveryFieldOfAnAnswerIsDescribed(t *testing.T) {
	checkFields(t, "field of an answer", reflect.TypeFor[Answer]())
}

// The same holds for the list of the messages that wait.
func TestEveryFieldOfTheListIsDescribed(t *testing.T) {
	checkFields(t, "field of the list", reflect.TypeFor[List]())
	checkFields(t, "field of a message", reflect.TypeFor[Waiting]())
}

// checkFields compares the rows of a table of docs/status.md with the fields of a type.
func checkFields(t *testing.T, head string, typ reflect.Type) {
	t.Helper()
	text, err := os.ReadFile("../../docs/status.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "\n| "+head+" | type | what |\n")
	if !ok {
		t.Fatalf("docs/status.md has no table with the head %q", head)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	var said, have []string
	for line := range strings.Lines(table) {
		if _, rest, ok := strings.Cut(line, "| `"); ok {
			name, _, _ := strings.Cut(rest, "`")
			said = append(said, name)
		}
	}
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		have = append(have, name)
	}
	if !slices.Equal(said, have) {
		t.Errorf("described are %q, there are %q", said, have)
	}
}

const unixHead = "Num       RefCount Protocol Flags    Type St Inode Path\n"

func TestListed(t *testing.T) {
	line := func(flags, name string) string {
		return "ffff8881e7a2c000: 00000002 00000000 " + flags + " 0001 01 5678901 " + name + "\n"
	}
	const listens = "00010000"
	for _, tt := range []struct {
		name string
		text string
		want []int
	}{
		{"nothing", "", nil},
		{"head", unixHead, nil},
		{"two, in order", unixHead + line(listens, "@poolinit/5/70") + line(listens, "@poolinit/5/8"), []int{8, 70}},
		{"twice", line(listens, "@poolinit/5/8") + line(listens, "@poolinit/5/8"), []int{8}},
		{"without an end", strings.TrimSpace(line(listens, "@poolinit/5/8")), []int{8}},
		{"connected", line("00000000", "@poolinit/5/8"), nil},
		{"other namespace", line(listens, "@poolinit/55/8") + line(listens, "@poolinit/4/8"), nil},
		{"a file", line(listens, "/poolinit/5/8") + line(listens, "/tmp/@poolinit/5/8"), nil},
		{"no name", "0000000000000000: 00000002 00000000 00010000 0001 01 1\n", nil},
		{"no PID", line(listens, "@poolinit/5/") + line(listens, "@poolinit/5/x") + line(listens, "@poolinit/5/8x"), nil},
		{"odd PIDs", line(listens, "@poolinit/5/0") + line(listens, "@poolinit/5/-8") + line(listens, "@poolinit/5/+8") +
			line(listens, "@poolinit/5/08") + line(listens, "@poolinit/5/99999999999999999999"), nil},
		{"a zero byte", line(listens, "@poolinit/5/8@"), nil},
		{"a blank", line(listens, "@poolinit/5/8 9") + line(listens, "x @poolinit/5/8"), nil},
	} {
		if got := listed([]byte(tt.text), "@poolinit/5/"); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func FuzzListed(f *testing.F) {
	f.Add(unixHead + "0: 2 0 00010000 1 1 5 @poolinit/5/8\n")
	f.Add("a b c 00010000 d e f @poolinit/5/7\x00\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		got := listed([]byte(text), "@poolinit/5/")
		for i, pid := range got {
			if pid <= 0 || i > 0 && pid <= got[i-1] {
				t.Errorf("%v", got)
			}
		}
		if len(got) > 0 && !strings.Contains(text, "@poolinit/5/") {
			t.Errorf("%v from nothing", got)
		}
	})
}

// FuzzParseRequest: any line is refused, or is a request within the limits.
func FuzzParseRequest(f *testing.F) {
	for _, seed := range []string{
		`{"command":"status"}`, `{"command":"reload","wait":true}`, `{"command":"scale","workers":5}`, `{"command":"pause"}`,
		`{"command":"resume","x":[]}`, `{"command":"queue","limit":1000}`, `{"command":"drop","ids":[1,18446744073709551615]}`,
		`{"command":"scale","workers":-1}`, `{"command":"drop","ids":[]}`, `{"command":"drop","ids":null}`, `{"command":"drop","ids":[1.5]}`,
		`null`, `[]`, `{"command":"queue","limit":1e3}`, `{"Command":"PAUSE"}`, "\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRequest(line)
		if err != nil {
			return
		}
		switch r.Command {
		case cmdStatus, cmdHealth, cmdReload, cmdStop, cmdPause, cmdResume:
		case cmdScale:
			if r.Workers < 1 || r.Workers > supervisor.MaxWorkers {
				t.Errorf("%q: %+v", line, r)
			}
		case cmdQueue:
			if r.Limit < 1 || r.Limit > MaxList {
				t.Errorf("%q: %+v", line, r)
			}
		case cmdDrop:
			if len(r.IDs) < 1 || len(r.IDs) > MaxIDs {
				t.Errorf("%q: %d ids", line, len(r.IDs))
			}
		default:
			t.Errorf("%q is taken for the command %q", line, r.Command)
		}
	})
}
