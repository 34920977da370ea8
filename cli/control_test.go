package cli

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/cli/flags"
)

var controlCommands = []*controlCommand{&statusCommand, &reloadCommand, &stopCommand, &healthCommand}

// badControlValues has, for every flag of status, reload, stop and health, what it
// refuses and words of the answer.
var badControlValues = map[string]struct {
	values []string
	allows string
}{
	"pid":   {[]string{"", "-1", "x", "4194305", "1.0", "99999999999999999999"}, "from 0 to 4194304"},
	"json":  {[]string{"yes", "1"}, "true or false"},
	"watch": {[]string{"yes", "1"}, "true or false"},
	"wait":  {[]string{"yes", "5s"}, "true or false"},
	"ready": {[]string{"yes", "notify"}, "true or false"},
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
		refusesControl(t, c.name, "x", c.name+` takes no arguments, but got "x"`)
		refusesControl(t, c.name, "--pid", "--pid needs a value")
		refusesControl(t, c.name, "--pidd=1", "there is no flag --pidd; did you mean --pid?")
	}
}

func refusesControl(t *testing.T, command, arg string, words ...string) {
	t.Helper()
	code, stdout, stderr := dispatched(t, "poolinit", command, arg)
	if code != flags.ExitUsage || stdout != "" {
		t.Errorf("%s %s: exit code %d, stdout %q", command, arg, code, stdout)
	}
	for _, w := range append(words, "poolinit: ", "Try 'poolinit "+command+" --help'.") {
		if !strings.Contains(stderr, w) {
			t.Errorf("%s %s: %q does not contain %q", command, arg, stderr, w)
		}
	}
}

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
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"reload"}, {"reload", "--wait"}, {"stop"}, {"stop", "--wait"}, {"health"}, {"health", "--ready"}} {
		code, stdout, stderr := dispatched(t, append(append([]string{"poolinit"}, args...), "--pid", self)...)
		if code != exitFailed || stdout != "" || stderr != want {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}
