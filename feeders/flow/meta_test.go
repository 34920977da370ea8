package flow

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/poolinit/poolinit/feeders/link"
)

func TestMeta(t *testing.T) {
	at := time.Date(2026, 11, 30, 20, 29, 26, 5e6, time.FixedZone("", 3600))
	for _, tt := range []struct {
		m    Message
		want string
	}{
		{Message{}, `{"attempt":2,"source":"fake","queue":""}`},
		{Message{ID: "1-0", Queue: "jobs", Key: "k", Time: at, More: `"partition":3,"offset":99`, Headers: map[string]string{"b": "2", "a": "1"}},
			`{"id":"1-0","attempt":2,"source":"fake","queue":"jobs","key":"k","time":"2026-11-30T19:29:26.005Z","partition":3,"offset":99,"headers":{"a":"1","b":"2"}}`},
		{Message{ID: "\"ü\n", Queue: "q", Headers: map[string]string{"x": "\xff", "y": ""}},
			`{"id":"\"ü\n","attempt":2,"source":"fake","queue":"q","headers":{"y":""},"headers64":{"x":"/w=="}}`},
		{Message{Queue: "q", Headers: map[string]string{"x": strings.Repeat("x", link.MaxMeta)}}, `{"attempt":2,"source":"fake","queue":"q"}`},
	} {
		if got := string(appendMeta(nil, &tt.m, 2, "fake")); got != tt.want {
			t.Errorf("%.200s, want %.200s", got, tt.want)
		}
	}
	if got := replyType([]byte(`{"type":"text/plain"}`)); got != "text/plain" {
		t.Errorf("type %q", got)
	}
}

// Whatever a broker says, the meta is JSON, and says the same.
func FuzzMeta(f *testing.F) {
	f.Add("1-0", "key", "name", "value")
	f.Add("\"\\\n\x00", "ü\xff", "", "\xff\xfe")
	f.Fuzz(func(t *testing.T, id, key, name, value string) {
		m := Message{ID: id, Key: key, Queue: name, Headers: map[string]string{name: value, "": key}}
		got := appendMeta(nil, &m, 1, "fake")
		var back struct {
			ID, Key, Queue     string
			Headers, Headers64 map[string]string
		}
		if err := json.Unmarshal(got, &back); err != nil || !utf8.Valid(got) {
			t.Fatalf("%v: %q", err, got)
		}
		if utf8.ValidString(id) && back.ID != id || utf8.ValidString(key) && back.Key != key {
			t.Fatalf("%q reads as %+v", got, back)
		}
		plain, err := base64.StdEncoding.DecodeString(back.Headers64[name])
		if name != "" && utf8.ValidString(name) && len(got) < link.MaxMeta && back.Headers != nil && back.Headers[name] != value && (err != nil || string(plain) != value) {
			t.Fatalf("%q: the header %q is %q", got, name, value)
		}
	})
}

func TestBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, 40: 5 * time.Minute, math.MaxInt: 5 * time.Minute} {
		for range 100 {
			if d := backoff(n, time.Second, 5*time.Minute); d < want*79/100 || d > want*121/100 {
				t.Fatalf("attempt %d: %v, want about %v", n, d, want)
			}
		}
	}
}
