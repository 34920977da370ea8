package ratelog

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// One line every ten seconds, with what was left out.
func TestWarn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := New(zerolog.New(&out))
		for range 35 { // seconds
			l.Warn("knocked", "no reason")
			time.Sleep(time.Second)
		}
		var counts []string
		for line := range strings.Lines(out.String()) {
			_, rest, _ := strings.Cut(line, `"count":`)
			count, rest, _ := strings.Cut(rest, ",")
			counts = append(counts, count)
			if rest != `"why":"no reason","message":"knocked"}`+"\n" {
				t.Errorf("%s", line)
			}
		}
		if got := strings.Join(counts, " "); got != "1 11 11 11" {
			t.Errorf("counts %s", got)
		}
	})
}
