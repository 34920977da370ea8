package cli

import (
	"strings"
	"testing"

	"github.com/poolinit/poolinit/cli/flags"
)

func TestNotifyUsage(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "@poolinit/nobody")
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "at least one VARIABLE=VALUE, such as READY=1"},
		{[]string{"ready"}, `"ready" is not allowed: a line is not NAME=value`},
		{[]string{"READY=1", ""}, `"" is not allowed`},
		{[]string{"=1"}, `"=1" is not allowed`},
		{[]string{"--ready"}, "there is no flag --ready"},
		{[]string{"STATUS=a\nREADY=1"}, "more than one line"},
		{[]string{"STATUS=\xff"}, "not UTF-8"},
		{[]string{"WATCHDOG_USEC=soon"}, "not a positive number of microseconds"},
		{[]string{"STATUS=" + strings.Repeat("x", 5000)}, "longer than 4096 bytes"},
	} {
		code, stdout, stderr := dispatched(t, append([]string{"poolinit", "notify"}, test.args...)...)
		if code != flags.ExitUsage || stdout != "" || !strings.Contains(stderr, test.want) || !strings.Contains(stderr, "Try 'poolinit notify --help'.") {
			t.Errorf("%q: code %d, stdout %q, stderr %q; want %q", test.args, code, stdout, stderr, test.want)
		}
	}
	code, stdout, _ := dispatched(t, "poolinit", "notify", "--help")
	if code != 0 || !strings.Contains(stdout, "poolinit notify VARIABLE=VALUE...") {
		t.Errorf("--help: code %d, %q", code, stdout)
	}
}

func TestNotifyNobody(t *testing.T) {
	for socket, want := range map[string]string{
		"":                 "NOTIFY_SOCKET is not set",
		"@poolinit/nobody": "@poolinit/nobody: connection refused",
		"/no/such/socket":  "/no/such/socket: no such file",
	} {
		t.Setenv("NOTIFY_SOCKET", socket)
		code, stdout, stderr := dispatched(t, "poolinit", "notify", "READY=1")
		if code != exitFailed || stdout != "" || !strings.HasPrefix(stderr, "poolinit: notify: "+want) {
			t.Errorf("%q: code %d, stdout %q, stderr %q; want %q", socket, code, stdout, stderr, want)
		}
	}
}
