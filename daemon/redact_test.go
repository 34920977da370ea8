package daemon

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

func TestRedacted(t *testing.T) {
	for _, tt := range []struct{ args, want []string }{
		{nil, []string{}},
		{[]string{"worker.php", "-v", "--queue=mail"}, []string{"worker.php", "-v", "--queue=mail"}},
		{[]string{"--password=x", "DB_PASSWORD=a=b", "--api-key", "abc", "more"}, []string{"--password=***", "DB_PASSWORD=***", "--api-key", "***", "more"}},
		{[]string{"--password", "--verbose", "x"}, []string{"--password", "--verbose", "x"}},
		{[]string{"--token="}, []string{"--token="}},
		{[]string{"redis://:pw@host/0", "amqp://u:p@ss@h/%2f?x=1", "https://h/a@b", "a=mysql://u:p@h;mysql://v:q@i"},
			[]string{"redis://***@host/0", "amqp://***@h/%2f?x=1", "https://h/a@b", "a=mysql://***@h;mysql://***@i"}},
		{[]string{"x://", "://@", "a://b://c@d"}, []string{"x://", "://***@", "a://b://***@d"}},
	} {
		if got := redacted(tt.args); !slices.Equal(got, tt.want) {
			t.Errorf("%q becomes %q, want %q", tt.args, got, tt.want)
		}
	}
}

// The command line may hold passwords: the log has the program, and the rest only at
// debug, without them.
func TestCommandLineIsNotLogged(t *testing.T) {
	for _, level := range []zerolog.Level{zerolog.InfoLevel, zerolog.DebugLevel} {
		var text bytes.Buffer
		logStart(zerolog.New(&text).Level(level), &Config{Command: []string{"php", "worker.php", "--password", "hunter2"}})
		said := text.String()
		if !strings.Contains(said, `"command":"php","arguments":3`) || strings.Contains(said, "hunter2") {
			t.Errorf("%v: %s", level, said)
		}
		if strings.Contains(said, "worker.php") != (level == zerolog.DebugLevel) {
			t.Errorf("%v: %s", level, said)
		}
	}
}

func FuzzRedacted(f *testing.F) {
	for _, s := range []string{"a://b:c@d", "--password=x", "x://", "://@", "https://a@b/c?d=e#f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := redacted([]string{"--password", "x" + s}); got[1] != hidden {
			t.Errorf("%q", got)
		}
		if got := redacted([]string{"amqp://user:" + strings.Map(plain, s) + "hunter2@host/" + s}); strings.Contains(got[0], "hunter2@") {
			t.Errorf("%q", got)
		}
	})
}

// plain drops what ends a URL's authority.
func plain(r rune) rune {
	if strings.ContainsRune("/?# ", r) {
		return -1
	}
	return r
}
