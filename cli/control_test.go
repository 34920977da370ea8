package cli

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/metrics/control"
)

var controlCommands = []*controlCommand{
	&statusCommand, &reloadCommand, &stopCommand, &healthCommand, &scaleCommand, &pauseCommand, &resumeCommand, &queueCommand,
}

// badControlValues has, for every flag of these, what it refuses and words of the
// answer.
var badControlValues = map[string]struct {
	values []string
	allows string
}{
	"pid":   {[]string{"", "-1", "x", "4194305", "1.0", "99999999999999999999"}, "from 0 to 4194304"},
	"json":  {[]string{"yes", "1"}, "true or false"},
	"watch": {[]string{"yes", "1"}, "true or false"},
	"now":   {[]string{"yes", "1"}, "true or false"},
	"wait":  {[]string{"yes", "5s"}, "true or false"},
	"ready": {[]string{"yes", "notify"}, "true or false"},
	"limit": {[]string{"0", "-1", "10001", "all", ""}, "from 1 to 10000"},
}

func TestControlFlags(t *testing.T) {
	for _, c := range controlCommands {
		_, help, _ := strings.Cut(c.flags(new(controlOptions)).Help(), "\nFlags:\n")
		for name, bad := range badControlValues {
			if !strings.Contains(help, "--"+name) {
				refusesControl(t, c.name, "--"+name, "there is no flag --"+name)
				continue
			}
			for _, value := range bad.values {
				refusesControl(t, c.name, "--"+name+"="+value, "--"+name+": "+quoted(value)+": ", bad.allows)
			}
		}
		for line := range strings.Lines(help) {
			_, name, _ := strings.Cut(line, "--")
			name, _, _ = strings.Cut(name, " ")
			if _, ok := badControlValues[name]; !ok && name != "help" {
				t.Errorf("%s: badControlValues has no --%s", c.name, name)
			}
		}
		if c.takes == nil {
			refusesControl(t, c.name, "x", c.name+` takes no arguments, but got "x"`)
		}
		refusesControl(t, c.name, "--pid", "--pid needs a value")
		refusesControl(t, c.name, "--pidd=1", "there is no flag --pidd; did you mean --pid?")
	}
}

func refusesControl(t *testing.T, command, arg string, words ...string) {
	t.Helper()
	refusesControlArgs(t, command, []string{arg}, words...)
}

func refusesControlArgs(t *testing.T, command string, args []string, words ...string) {
	t.Helper()
	code, stdout, stderr := dispatched(t, append([]string{"poolinit", command}, args...)...)
	if code != flags.ExitUsage || stdout != "" {
		t.Errorf("%s %s: exit code %d, stdout %q", command, args, code, stdout)
	}
	for _, w := range append(words, "poolinit: ", "Try 'poolinit "+command+" --help'.") {
		if !strings.Contains(stderr, w) {
			t.Errorf("%s %s: %q does not contain %q", command, args, stderr, w)
		}
	}
}

// What scale and queue take is checked before any pool is asked.
func TestControlArguments(t *testing.T) {
	many := append([]string{"drop"}, slices.Repeat([]string{"1"}, control.MaxIDs+1)...)
	for _, tt := range []struct {
		command string
		args    []string
		words   string
	}{
		{"scale", nil, "scale needs a number of workers, and nothing else, but got 0 arguments"},
		{"scale", []string{"2", "3"}, "but got 2 arguments"},
		{"scale", []string{"0"}, `scale: "0" is not allowed: a whole number from 1 to 65536`},
		{"scale", []string{"65537"}, "from 1 to 65536"},
		{"scale", []string{"+"}, "from 1 to 65536"},
		{"scale", []string{"auto"}, "from 1 to 65536"},
		{"scale", []string{""}, `scale: "" is not allowed`},
		{"queue", []string{"show"}, `queue: "show" is not allowed: list or drop`},
		{"queue", []string{"7"}, `queue: "7" is not allowed: list or drop`},
		{"queue", []string{"list", "7"}, `queue list takes no arguments, but got "7"`},
		{"queue", []string{"drop"}, "queue drop needs the id of a message"},
		{"queue", []string{"drop", "7", "x"}, `queue drop: "x" is not allowed: the id of a message, such as 17`},
		{"queue", []string{"drop", "0"}, `queue drop: "0" is not allowed`},
		{"queue", []string{"drop", "18446744073709551616"}, "is not allowed: the id of a message"},
		{"queue", many, "queue drop takes at most 1000 ids, but got 1001"},
	} {
		refusesControlArgs(t, tt.command, tt.args, tt.words)
	}
}

// An id that is given twice counts once.
func TestQueueDropArguments(t *testing.T) {
	o := new(controlOptions)
	if err := takeQueueArgs([]string{"drop", "9", "7", "9"}, o); err != nil || !slices.Equal(o.drop, []uint64{7, 9}) {
		t.Errorf("%v, %v", o.drop, err)
	}
}

func TestQueueTable(t *testing.T) {
	for _, tt := range []struct {
		list control.List
		want string
	}{
		{control.List{}, "no message waits\n"},
		{control.List{Messages: []control.Waiting{
			{ID: 17, Source: "tcp://0.0.0.0:8089", Age: 1.3, Bytes: 512},
			{ID: 18, Source: "tcp://0.0.0.0:8089", Age: 1.1, Bytes: 2560, Attempts: 2, Due: 3.4},
		}}, queueExample},
		{control.List{Messages: []control.Waiting{{ID: 1, Source: "unix:///\x1b[2J"}}, More: 99_999},
			"ID  SOURCE        AGE  BYTES  ATTEMPTS  DUE\n 1  unix:///?[2J   0s     0B         0  now\n... and 99999 more\n"},
	} {
		if got := queueTable(&tt.list, false); got != tt.want {
			t.Errorf("%q\nwant %q", got, tt.want)
		}
	}
	if !strings.Contains(document(t, "docs/status.md"), "\n```text\n"+queueExample+"```\n") {
		t.Errorf("docs/status.md does not have\n%s", queueExample)
	}
}

const queueExample = `ID  SOURCE               AGE   BYTES  ATTEMPTS  DUE
17  tcp://0.0.0.0:8089  1.3s    512B         0  now
18  tcp://0.0.0.0:8089  1.1s  2.5KiB         2  in 3.4s
`

func TestControlHelp(t *testing.T) {
	for _, c := range controlCommands {
		for _, arg := range []string{"-h", "--help"} {
			code, stdout, stderr := dispatched(t, "poolinit", c.name, arg)
			for _, want := range []string{"poolinit " + c.name + " ", "Usage:\n", "Exit codes: 0", "--pid number"} {
				if !strings.Contains(stdout, want) {
					t.Errorf("%s %s: %q is not in\n%s", c.name, arg, want, stdout)
				}
			}
			if code != 0 || stderr != "" {
				t.Errorf("%s %s: exit code %d, %q", c.name, arg, code, stderr)
			}
		}
	}
}

// Where there is no pool each says so, and nothing else.
func TestControlWithoutAPool(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	want := fmt.Sprintf("poolinit: process %s is not a pool in this PID namespace\n", self)
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"reload"}, {"reload", "--wait"}, {"stop"}, {"stop", "--wait"}, {"health"}, {"health", "--ready"},
		{"scale", "2"}, {"pause"}, {"resume"}, {"queue"}, {"queue", "list", "--json"}, {"queue", "drop", "7"}} {
		code, stdout, stderr := dispatched(t, append(append([]string{"poolinit"}, args...), "--pid", self)...)
		if code != exitFailed || stdout != "" || stderr != want {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}
