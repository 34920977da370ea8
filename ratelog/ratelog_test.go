package ratelog

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/internal/testkit"
)

// counts returns the counts of the lines.
func counts(t *testing.T, out *testkit.Output, end string) string {
	t.Helper()
	var all []string
	for _, line := range out.Lines() {
		_, rest, _ := strings.Cut(line, `"count":`)
		count, rest, _ := strings.Cut(rest, ",")
		all = append(all, count)
		if rest != end {
			t.Errorf("%s", line)
		}
	}
	return strings.Join(all, " ")
}

// One line every ten seconds, with what was left out; also when nothing happens
// any more.
func TestWarn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out testkit.Output
		l := New(zerolog.New(&out))
		for range 35 {
			l.Warn("knocked", "no reason")
			time.Sleep(time.Second - time.Millisecond)
		}
		const end = `"why":"no reason","message":"knocked"}`
		if got := counts(t, &out, end); got != "1 10 10 10" {
			t.Errorf("counts %s", got)
		}
		time.Sleep(time.Minute)
		if got := counts(t, &out, end); got != "1 10 10 10 4" {
			t.Errorf("after a minute: counts %s", got)
		}
		l.Warn("knocked", "no reason")
		time.Sleep(time.Minute)
		if got := counts(t, &out, end); got != "1 10 10 10 4 1" {
			t.Errorf("after another minute: counts %s", got)
		}
	})
}

// The line of what was only counted has the fields of the last of it.
func TestSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out testkit.Output
		l := Several(zerolog.New(&out), zerolog.InfoLevel, 2)
		add := func(i int) { l.Add("knocked", func(e *zerolog.Event) { e.Int("door", i) }) }
		for i := range 1000 {
			add(i)
		}
		time.Sleep(time.Minute)
		add(-1)
		want := `{"level":"info","count":1,"door":0,"message":"knocked"}
{"level":"info","count":1,"door":1,"message":"knocked"}
{"level":"info","count":998,"door":999,"message":"knocked"}
{"level":"info","count":1,"door":-1,"message":"knocked"}
`
		if got := out.String(); got != want {
			t.Errorf("%s", got)
		}
	})
}
