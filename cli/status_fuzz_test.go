package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/poolinit/poolinit/metrics/status"
)

// FuzzStatus: whatever document a pool sends, the table has no character that acts on a
// terminal, and a screen of it has no more lines than fit.
func FuzzStatus(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `{"version":"v1","pid":7,"ready":true,"uptime_seconds":1e300,"workers_wanted":-1}`,
		`{"workers":[{"id":0,"pid":8,"state":"busy","status":"\u001b[2J","held_seconds":-5,"memory_bytes":18446744073709551615}]}`,
		`{"workers":[{"last_exit":{"why":"\n","code":-1}},{"last_exit":null}],"reload":{"state":"failed\r","reason":"\u009b"}}`,
		`{"queue":{"messages":1,"bytes":2,"oldest_seconds":3e8,"paused":true},"sources":[{"name":"tcp://\u202e"},{}],"stopping":"\u0007"}`,
	} {
		f.Add([]byte(seed), uint8(2), uint8(24))
	}
	f.Fuzz(func(t *testing.T, text []byte, width, height uint8) {
		var d status.Document
		if json.Unmarshal(text, &d) != nil {
			return
		}
		got := table(&d, false, width < 100)
		for _, r := range got {
			if r != '\n' && r != utf8.RuneError && !unicode.IsPrint(r) {
				t.Errorf("%q is in the table", r)
			}
		}
		w, h := max(int(width), 1), max(int(height), 2) // as windowSize returns them
		if lines := strings.Count(screen(table(&d, true, w < 100), w, h), "\n"); lines >= h {
			t.Errorf("%d lines on a screen of %d", lines, h)
		}
	})
}
