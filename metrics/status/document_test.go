package status

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/supervisor"
)

const docs = "../../docs/status.md"

var update = flag.Bool("update", false, "write the example into docs/status.md")

func readDocs(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documented are the rows of the table of fields: type, and whether the field may
// be absent.
func documented(t *testing.T) map[string]string {
	t.Helper()
	_, section, ok := strings.Cut(readDocs(t), "\n## The document\n")
	if !ok {
		t.Fatal("docs/status.md has no section The document")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows := map[string]string{}
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		name := strings.Trim(cells[1], "`")
		if rows[name] != "" {
			t.Errorf("%s is described twice", name)
		}
		if cells[4] == "" {
			t.Errorf("%s is not described", name)
		}
		rows[name] = cells[2]
		if cells[3] != "" {
			rows[name] += ", may be absent"
		}
	}
	return rows
}

// fields lists the fields of a type and of those below.
func fields(typ reflect.Type, prefix string, to map[string]string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		kind, below := kindOf(f.Type)
		switch {
		case below == nil:
		case kind == "list":
			fields(below, prefix+name+"[].", to)
		default:
			fields(below, prefix+name+".", to)
		}
		if options != "" {
			kind += ", may be absent"
		}
		to[prefix+name] = kind
	}
}

// kindOf is a type in JSON's words, and the struct in it, if there is one.
func kindOf(typ reflect.Type) (kind string, below reflect.Type) {
	switch {
	case typ == reflect.TypeFor[time.Time]():
		return "time", nil
	case typ.Kind() == reflect.Pointer:
		return kindOf(typ.Elem())
	case typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct:
		return "list", typ.Elem()
	case typ.Kind() == reflect.Slice:
		kind, _ = kindOf(typ.Elem())
		return "list of " + kind, nil
	case typ.Kind() == reflect.Struct:
		return "object", typ
	case typ.Kind() == reflect.Float64:
		return "seconds", nil
	case typ.Kind() == reflect.Bool, typ.Kind() == reflect.String:
		return typ.Kind().String(), nil
	case typ.ConvertibleTo(reflect.TypeFor[int]()):
		return "integer", nil
	}
	return "a " + typ.String() + ", which the test does not know", nil
}

// docs/status.md has every field with its type, and no other.
func TestEveryFieldIsDescribed(t *testing.T) {
	have := map[string]string{}
	fields(reflect.TypeFor[Document](), "", have)
	said := documented(t)
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if said[name] != have[name] {
			t.Errorf("`%s` is: %s; docs/status.md says: %q", name, have[name], said[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(said)) {
		if have[name] == "" {
			t.Errorf("docs/status.md describes `%s`, which there is not", name)
		}
	}
}

// The words that a field may have are described, too.
func TestEveryWordIsDescribed(t *testing.T) {
	text := readDocs(t)
	for _, state := range States() {
		if !strings.Contains(text, "`"+string(state)+"`") {
			t.Errorf("docs/status.md does not name the state %s", state)
		}
	}
	for _, outcome := range append(supervisor.Outcomes(), "none", "running") {
		if !strings.Contains(text, "`"+string(outcome)+"`") {
			t.Errorf("docs/status.md does not name the state %s of a reload", outcome)
		}
	}
	for _, cause := range supervisor.Causes() {
		if !strings.Contains(text, "`"+string(cause)+"`") {
			t.Errorf("docs/status.md does not name the cause %s", cause)
		}
	}
}

// example is a pool in the middle of a reload, on a bad day.
func example() *Snapshot {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	ago := func(d time.Duration) time.Time { return at.Add(-d) }
	const day = 24 * time.Hour
	source := &ipc.SourceStats{Name: "tcp://0.0.0.0:8089"}
	source.Connections.Store(12)
	source.Accepted.Store(40_211)
	source.TurnedAway.Store(3)
	source.Received.Store(1_204_410)
	source.Handled.Store(1_204_377)
	source.Failed.Store(6)
	source.Retried.Store(11)
	source.GivenUp.Store(2)
	source.Expired.Store(1)
	exit := func(cause supervisor.Cause, pid, code int, sig syscall.Signal, before, uptime time.Duration, peak uint64, text string) *supervisor.Exit {
		return &supervisor.Exit{Cause: cause, PID: pid, Code: code, Signal: sig, At: ago(before), Uptime: uptime, Peak: peak, Text: text}
	}
	pool := supervisor.Stats{
		Began: ago(5*day + 3*time.Hour), Generation: 3, Complete: true, Wanted: 4,
		Reload: supervisor.ReloadStats{Running: true, Generation: 3, Began: ago(2100 * time.Millisecond), Replaced: 1},
		Workers: []supervisor.WorkerStats{
			{ID: 0, PID: 311, Generation: 3, State: supervisor.Ready, Since: ago(1200 * time.Millisecond), Started: ago(1300 * time.Millisecond), Starts: 3,
				LastExit: exit(supervisor.Reloaded, 41, 0, 0, 1400*time.Millisecond, day, 51<<20, "exited with code 0 after 24h0m0s (reload)")},
			{ID: 1, PID: 42, Generation: 2, State: supervisor.Stopping, Since: ago(1100 * time.Millisecond), Started: ago(day), Starts: 2,
				LastExit: exit(supervisor.Reloaded, 12, 0, 0, day, 4*day, 60<<20, "exited with code 0 after 96h0m0s (reload)")},
			{ID: 2, PID: 305, Generation: 2, State: supervisor.Ready, Since: ago(7 * time.Minute), Started: ago(7 * time.Minute), Starts: 5, Status: "importing orders",
				LastExit: exit(supervisor.OOM, 204, 0, syscall.SIGKILL, 7*time.Minute, 2*time.Hour, 510<<20, "died of SIGKILL after 2h0m0s (oom)")},
			{ID: 3, State: supervisor.Backoff, Since: ago(3 * time.Second), NextStart: at.Add(9 * time.Second), Starts: 9, Failures: 7,
				LastExit: exit(supervisor.Crash, 310, 255, 0, 3*time.Second, 40*time.Millisecond, 38<<20, "exited with code 255 after 40ms (crash)")},
		},
	}
	queue := ipc.QueueStats{
		Messages: 18, Bytes: 9216, Oldest: 1300 * time.Millisecond, OldestID: 1_204_393, InFlight: 9, Delayed: 2,
		Workers: []ipc.WorkerStats{
			{Handled: 402_118, Busy: 31 * time.Hour, InHand: 1, Held: 400 * time.Microsecond, Window: 1, Newborn: true},
			{Handled: 401_903, Failed: 2, Busy: 30 * time.Hour, InHand: 1, Held: 1100 * time.Millisecond, Window: 1},
			{Handled: 400_240, Failed: 4, Busy: 33 * time.Hour, InHand: 7, Held: 2 * time.Millisecond, Window: 8},
			{Handled: 116, Failed: 11, Busy: 9 * time.Second},
		},
	}
	return &Snapshot{
		At: at, Pool: pool, Queue: queue,
		Usage: []Usage{{RSS: 48 << 20, CPU: 30 * time.Hour}, {RSS: 66 << 20, CPU: 29 * time.Hour}, {RSS: 301 << 20, CPU: 32 * time.Hour}, {CPU: 8 * time.Second}},
		view: &View{
			Version: "v1.2.3", PID: 1, QueueMessages: 1024, QueueBytes: 64 << 20,
			Queue:   fakeQueue(func() ipc.QueueStats { return queue }),
			Sources: []ipc.Source{fakeSource{stats: source}},
			Serving: func() bool { return true },
		},
	}
}

// The example of docs/status.md is what Document makes of example.
// go test ./metrics/status -run Document -update puts it there.
func TestDocument(t *testing.T) {
	got, err := json.MarshalIndent(example().Document(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text := readDocs(t)
	before, rest, ok := strings.Cut(text, "\n```json\n")
	was, after, ok2 := strings.Cut(rest, "```\n")
	switch {
	case !ok || !ok2:
		t.Error("docs/status.md has no block ```json")
	case was == string(got)+"\n":
	case *update:
		if err := os.WriteFile(docs, []byte(before+"\n```json\n"+string(got)+"\n```\n"+after), 0o644); err != nil {
			t.Error(err)
		}
	default:
		t.Errorf("docs/status.md has another document: go test ./metrics/status -run Document -update\n%s", got)
	}
}

// What JSON cannot say is not in it, whatever the snapshot has.
func TestDocumentOfNothing(t *testing.T) {
	stats := supervisor.Stats{Workers: []supervisor.WorkerStats{
		{}, {LastExit: new(supervisor.Exit)}, {NextStart: time.Now().Add(-time.Hour), State: supervisor.Backoff, Status: "\xff\x00"},
	}}
	v := &View{Pool: fakePool(func() supervisor.Stats { return stats }), Reaper: fakeReaper(0),
		Queue: fakeQueue(func() ipc.QueueStats { return ipc.QueueStats{} }), Serving: func() bool { return false }}
	d := v.Look().Document()
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), ":null") || strings.Contains(string(text), ":-") {
		t.Errorf("%s", text)
	}
	var back Document
	if err := json.Unmarshal(text, &back); err != nil || len(back.Workers) != 3 || back.Workers[2].NextStart != 0 {
		t.Errorf("%v\n%s", err, text)
	}
}

// A clock that was set back makes no negative times.
func TestDocumentOfTheFuture(t *testing.T) {
	s := example()
	s.At = s.Pool.Began.Add(-time.Hour)
	text, err := json.Marshal(s.Document())
	if err != nil || strings.Contains(string(text), ":-") {
		t.Errorf("%v %s", err, text)
	}
}

func TestDocumentOfReloads(t *testing.T) {
	began := time.Now().Add(-time.Minute)
	result := func(o supervisor.Outcome) *supervisor.ReloadResult {
		return &supervisor.ReloadResult{Outcome: o, Reason: "why", Took: time.Second}
	}
	for _, tt := range []struct {
		stats supervisor.ReloadStats
		want  string
	}{
		{supervisor.ReloadStats{}, "{none 0 0 0  false}"},
		{supervisor.ReloadStats{Running: true, Queued: true, Generation: 2, Began: began, Replaced: 3}, "{running 2 60 3  true}"},
		{supervisor.ReloadStats{Running: true, Generation: 3, Began: began, Last: result(supervisor.Failed)}, "{running 3 60 0  false}"},
		{supervisor.ReloadStats{Generation: 2, Began: began, Replaced: 1, Last: result(supervisor.Failed)}, "{failed 2 1 1 why false}"},
		{supervisor.ReloadStats{Generation: 2, Began: began, Replaced: 4, Last: result(supervisor.Complete)}, "{done 2 1 4 why false}"},
		{supervisor.ReloadStats{Generation: 2, Began: began, Last: result(supervisor.Interrupted)}, "{interrupted 2 1 0 why false}"},
	} {
		s := &Snapshot{view: new(View), At: began.Add(time.Minute), Pool: supervisor.Stats{Reload: tt.stats}}
		r := s.reload()
		got := fmt.Sprintf("{%s %d %v %d %s %v}", r.State, r.Generation, r.Took, r.Replaced, r.Reason, r.Queued)
		if got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}
