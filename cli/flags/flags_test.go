package flags

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/captured"
)

// A command is a set with one flag of each kind.
type command struct {
	set   *Set
	wait  time.Duration
	names []string
	fast  bool
	file  string
}

func newCommand(name string) *command {
	c := &command{set: New(name, func(flags string) string { return "before\n" + flags + "after\n" })}
	Add(c.set, &c.wait, AtLeast(time.Second), "wait-time", "w", "2s", "`time`", "how long")
	List(c.set, &c.names, OneOf("x://1", "x://2"), "name", "`name`", "repeatable")
	c.set.Switch(&c.fast, TrueOrFalse, "fast", "quickly")
	c.set.Text(&c.file, "file", "a `file`")
	c.set.HelpFlag()
	return c
}

func TestParse(t *testing.T) {
	c := newCommand("do")
	rest, err := c.set.Parse(strings.Fields("-w 3s a --name x://1 --name=x://2 --fast --file f b"))
	if err != nil || !slices.Equal(rest, []string{"a", "b"}) {
		t.Fatal(rest, err)
	}
	if c.wait != 3*time.Second || !slices.Equal(c.names, []string{"x://1", "x://2"}) || !c.fast || c.file != "f" || c.set.Dashed() {
		t.Errorf("%+v", c)
	}
	if want := []string{"wait-time", "name", "fast", "file", "help"}; !slices.Equal(c.set.Names(), want) {
		t.Errorf("%q, want %q", c.set.Names(), want)
	}

	c = newCommand("do")
	c.set.FlagsFirst()
	rest, err = c.set.Parse(strings.Fields("--fast=false a --fast"))
	if err != nil || !slices.Equal(rest, []string{"a", "--fast"}) || c.fast || c.wait != 2*time.Second {
		t.Errorf("%q, %v, %+v", rest, err, c)
	}
	if _, err := c.set.Parse([]string{"--", "a"}); err != nil || !c.set.Dashed() {
		t.Errorf("%v: the flags did not end with --", err)
	}
}

// The help goes to stdout, an error to stderr, and the exit codes are 0 and 2.
func TestReport(t *testing.T) {
	for _, tt := range []struct {
		name, args     string
		code           int
		stdout, stderr string // their beginning
	}{
		{"do", "--help", 0, "before\n  -w, --wait-time time", ""},
		{"", "-h --no-such-flag", 2, "", "poolinit: there is no flag --no-such-flag\nTry 'poolinit --help'.\n"},
		{"", "--wiat-time 2s", 2, "", "poolinit: there is no flag --wiat-time; did you mean --wait-time?\nTry 'poolinit --help'.\n"},
		{"do", "--wait-time", 2, "", "poolinit: --wait-time needs a value\nTry 'poolinit do --help'.\n"},
		{"do", "--name x", 2, "", "poolinit: --name: \"x\" is not allowed: x://1 or x://2\nTry 'poolinit do --help'.\n"},
		{"do", "--fast=yes", 2, "", "poolinit: --fast: \"yes\" is not allowed: true or false\n"},
	} {
		c := newCommand(tt.name)
		_, err := c.set.Parse(strings.Fields(tt.args))
		if (tt.code == 0) != errors.Is(err, ErrHelp) {
			t.Errorf("%s: %v", tt.args, err)
		}
		code, stdout, stderr := captured.Run(t, func() int { return c.set.Report(err) })
		if code != tt.code || !strings.HasPrefix(stdout, tt.stdout) || !strings.HasPrefix(stderr, tt.stderr) || (stdout == "") != (tt.stdout == "") {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", tt.args, code, stdout, stderr)
		}
	}
}

func TestParseEnviron(t *testing.T) {
	for _, tt := range []struct {
		args, environ, ignore string
		wait                  time.Duration
		names                 string
		warning               string
	}{
		{"", "POOLINIT_WAIT_TIME=5s", "", 5 * time.Second, "", ""},
		{"-w 7s", "POOLINIT_WAIT_TIME=bad", "", 7 * time.Second, "", ""}, // the command line wins
		{"", "POOLINIT_WAIT_TIME=bad", "POOLINIT_WAIT_TIME", 2 * time.Second, "", ""},
		{"", "POOLINIT_NAME=x://1,x://2", "", 2 * time.Second, "x://1 x://2", ""},
		{"", "POOLINIT_WAITTIME=5s", "", 2 * time.Second, "", "POOLINIT_WAITTIME is not a poolinit setting; did you mean POOLINIT_WAIT_TIME?"},
		{"", "POOLINIT_WAITTIME=5s", "POOLINIT_WAITTIME", 2 * time.Second, "", ""},
		{"", "POOLINIT_PORT=tcp://10.0.0.1:80", "", 2 * time.Second, "", ""},
	} {
		c := newCommand("")
		if _, err := c.set.Parse(strings.Fields(tt.args)); err != nil {
			t.Fatal(err)
		}
		warnings, err := c.set.ParseEnviron([]string{"HOME=/", tt.environ}, strings.Fields(tt.ignore))
		if err != nil || c.wait != tt.wait || strings.Join(c.names, " ") != tt.names || strings.Join(warnings, "|") != tt.warning {
			t.Errorf("%+v: %s, %q, warnings %q, %v", tt, c.wait, c.names, warnings, err)
		}
	}
	if _, err := newCommand("").set.ParseEnviron([]string{"POOLINIT_NAME=x://1,x://3"}, nil); err == nil ||
		err.Error() != `POOLINIT_NAME: "x://3" is not allowed: x://1 or x://2` {
		t.Error(err)
	}
}

func TestSplitList(t *testing.T) {
	for text, want := range map[string][]string{
		"tcp://a:1?allow=10.0.0.0/8,::1,unix:///b": {"tcp://a:1?allow=10.0.0.0/8,::1", "unix:///b"},
		"HUP=USR2,ALRM=":      {"HUP=USR2", "ALRM="},
		"a.example,b.example": {"a.example", "b.example"},
		"one":                 {"one"},
	} {
		if got := splitList(text); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1},
		{"kitten", "sitting", 3}, {"worker", "workers", 1}, {"stop", "pots", 3}, {"relpy", "reply", 1},
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
