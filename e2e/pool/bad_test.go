package pool

import (
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// What the user could have written right: code 2, a line that names the flag
// or variable, the value and what is allowed, and nothing starts.
func TestRunBadInput(t *testing.T) {
	harness.Need(t, "sh")
	flag := func(words ...string) []string { return words }
	for _, c := range []struct {
		name  string
		flags []string
		env   string
		says  []string
	}{
		{"workers 0", flag("--workers", "0"), "", []string{"--workers", `"0"`, "from 1 to 65536, or auto"}},
		{"workers -1", flag("--workers=-1"), "", []string{"--workers", `"-1"`}},
		{"workers 1e9", flag("-n", "1e9"), "", []string{"--workers", `"1e9"`}},
		{"workers 1000000000", flag("-n", "1000000000"), "", []string{"--workers", "65536"}},
		{"restart", flag("--restart", "sometimes"), "", []string{"--restart", `"sometimes"`, "always, on-failure or never"}},
		{"restart-delay", flag("--restart-delay", "0s"), "", []string{"--restart-delay", `"0s"`, "from 1ms"}},
		{"restart-delay-max", flag("--restart-delay-max", "10"), "", []string{"--restart-delay-max", `"10"`, "such as 500ms"}},
		{"delays", flag("--restart-delay", "1m", "--restart-delay-max", "1s"), "", []string{"--restart-delay-max 1s", "--restart-delay 1m"}},
		{"healthy-after", flag("--healthy-after", "-1s"), "", []string{"--healthy-after", `"-1s"`}},
		{"give-up", flag("--give-up", "-1"), "", []string{"--give-up", `"-1"`}},
		{"stop-signal", flag("--stop-signal", "FOO"), "", []string{"--stop-signal", "FOO", "TERM"}},
		{"stop-timeout", flag("--stop-timeout", "never"), "", []string{"--stop-timeout", `"never"`}},
		{"drain-delay", flag("--drain-delay", "-1ms"), "", []string{"--drain-delay", `"-1ms"`}},
		{"drain over stop", flag("--stop-timeout", "2s", "--drain-delay", "3s"), "", []string{"--stop-timeout 2s", "--drain-delay 3s"}},
		{"ready", flag("--ready", "yes"), "", []string{"--ready", `"yes"`, "auto, notify or started"}},
		{"min-ready", flag("--min-ready", "x"), "", []string{"--min-ready", `"x"`}},
		{"ready-timeout", flag("--ready-timeout", "0"), "", []string{"--ready-timeout", `"0"`}},
		{"ready over min", flag("--ready-timeout", "1s", "--min-ready", "2s"), "", []string{"--ready-timeout 1s", "--min-ready 2s"}},
		{"watchdog", flag("--watchdog", "1"), "", []string{"--watchdog", `"1"`}},
		{"reload-order", flag("--reload-order", "both"), "", []string{"--reload-order", `"both"`, "stop-first or start-first"}},
		{"max-lifetime", flag("--max-lifetime", "day"), "", []string{"--max-lifetime", `"day"`}},
		{"max-memory", flag("--max-memory", "64MiBs"), "", []string{"--max-memory", `"64MiBs"`, "64MiB"}},
		{"max-memory of a kilobyte", flag("--max-memory", "1K"), "", []string{"--max-memory", `"1K"`}},
		{"user", flag("--user", "no-such-user"), "", []string{"--user", `"no-such-user"`, "uid:gid"}},
		{"output", flag("--output", "syslog"), "", []string{"--output", `"syslog"`, "json"}},
		{"log-level", flag("--log-level", "loud"), "", []string{"--log-level", `"loud"`}},
		{"log-format", flag("--log-format", "xml"), "", []string{"--log-format", `"xml"`}},
		{"unknown flag", flag("--worker", "3"), "", []string{"--worker", "did you mean --workers?"}},
		{"unknown short flag", flag("-x"), "", []string{"-x"}},
		{"no value", flag("--workers"), "", []string{"--workers"}}, // it takes the -- for one
		{"variable", nil, "POOLINIT_STOP_TIMEOUT=8", []string{"POOLINIT_STOP_TIMEOUT", `"8"`, "500ms"}},
		{"variable of workers", nil, "POOLINIT_WORKERS=many", []string{"POOLINIT_WORKERS", `"many"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{harness.Binary(t)}, c.flags...)
			p, code := harness.Run(t, harness.Program{Args: append(args, "--", "sh", "-c", "echo started"), Env: []string{c.env}})
			c.says = append(c.says, "poolinit: ")
			harness.CheckUsage(t, p, code, c.says)
		})
	}
	for name, args := range map[string][]string{"no command": {}, "only --": {"--"}, "empty command": {"--", ""}} {
		p, code := harness.Run(t, harness.Program{Args: append([]string{harness.Binary(t)}, args...)})
		t.Run(name, func(t *testing.T) { harness.CheckUsage(t, p, code, []string{"COMMAND"}) })
	}
}

// Variables that mean nothing are warned about, the nearest named; those of a
// Kubernetes Service called poolinit are nobody's fault.
func TestRunStrangeVariables(t *testing.T) {
	harness.Need(t, "true")
	p, code := harness.Run(t, harness.Program{Args: []string{harness.Binary(t), "--restart", "never", "true"}, Env: []string{
		"POOLINIT_STOPTIMEOUT=8s", "POOLINIT_STOP_SIGNAL=",
		"POOLINIT_SERVICE_HOST=10.0.0.1", "POOLINIT_SERVICE_PORT=80", "POOLINIT_SERVICE_PORT_HTTP=80",
		"POOLINIT_PORT=tcp://10.0.0.1:80", "POOLINIT_PORT_80_TCP_ADDR=10.0.0.1",
	}})
	warnings := 0
	for _, r := range harness.ParseLog(p.Stderr.Lines()) {
		if r.Level == "warn" {
			warnings++
			if !strings.Contains(r.Message, "POOLINIT_STOPTIMEOUT") || !strings.Contains(r.Message, "did you mean POOLINIT_STOP_TIMEOUT?") {
				t.Errorf("warning %q", r.Message)
			}
		}
	}
	if code != 0 || warnings != 1 {
		t.Errorf("exit code %d, %d warnings: %s", code, warnings, p.Stderr.String())
	}
}
