package ipc

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
)

// Whatever meta a client sends: a worker gets one JSON object, with the pool's own
// members and the client's id.
func FuzzTaggedHeads(f *testing.F) {
	for _, meta := range []string{"", "{}", `{"id":"a"}`, `{ "x" : {"id":"b"} , "id":"c" }`, `{"\u0069d":"d"}`, `{"a":"\"id\":\"e\""}`, `{"id":"f","id":"g"}`} {
		f.Add(meta, uint64(7), 1)
	}
	var heads taggedHeads
	flow := NewFlow(&Lane{Source: &SourceStats{Name: "tcp://a:1"}})
	f.Fuzz(func(t *testing.T, meta string, id uint64, attempts int) {
		d := NewDelivery(nil, &flow, []byte("body"))
		defer d.Release()
		if d.SetMeta([]byte(meta)) != nil || id == 0 || attempts < 0 || attempts > 1<<30 {
			return
		}
		d.id, d.attempts, d.number, d.arrived = id, attempts, 9, time.Duration(id)
		head := append(heads.of(d, 0), d.Body()...)
		got, size, ok, err := frame.CutTagged(head, 100)
		if err != nil || !ok || size != len(head) || got.Tag != 9 || string(got.Body) != "body" {
			t.Fatalf("%+v, %d, %v, %v", got, size, ok, err)
		}
		var members map[string]json.RawMessage
		m, parseErr := frame.ParseMeta(got.Meta)
		if err := json.Unmarshal(got.Meta, &members); err != nil || parseErr != nil {
			t.Fatalf("%s: %v, %v", got.Meta, err, parseErr)
		}
		if m.Attempt != attempts+1 || m.Source != "tcp://a:1" || m.ID == "" && !hasID([]byte(meta)) {
			t.Errorf("%s", got.Meta)
		}
	})
}

func TestParseRetry(t *testing.T) {
	for failure, want := range map[string]time.Duration{
		"retry: 30s: text": 30 * time.Second, "retry: 500ms": 500 * time.Millisecond, "retry: 0s: a: b": 0,
		"retry: 30: text": -1, "retry: -1s: text": -1, "retry: soon": -1, "retry": -1, "error: 30s: text": -1, "": -1,
	} {
		got, ok := parseRetry(frame.ParseFailure([]byte(failure)))
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %s, %v", failure, got, ok)
		}
	}
}
