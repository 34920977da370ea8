package cli

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/daemon"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/reaper/signals"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/output"
)

// badValues has, for every flag of run, what it refuses and words of the
// answer. A flag that is not here fails TestEveryFlagRefuses.
var badValues = map[string]struct {
	values []string
	allows []string
}{
	"workers":           {[]string{"0", "-1", "1e9", "1000000000", "65537", "four", "AUTO", "1.5", "", " 1", "0x4", "99999999999999999999"}, []string{"from 1 to 65536", "auto"}},
	"restart":           {[]string{"", "yes", "Always", "on_failure", "no"}, []string{"always", "on-failure", "never"}},
	"restart-delay":     {badDurations("0s", "999us"), []string{"from 1ms", "8s"}},
	"restart-delay-max": {badDurations("0s"), []string{"from 1ms", "8s"}},
	"healthy-after":     {badDurations(), []string{"from 0s", "8s"}},
	"give-up":           {[]string{"-1", "1000001", "never", "", "1.0"}, []string{"from 0 to 1000000"}},
	"stop-signal":       {[]string{"", "FOO", "0", "65", "-15", "RTMIN+31", "SIGSIGTERM"}, []string{"TERM", "1 to 64", "RTMIN+3"}},
	"stop-on":           {[]string{"", "FOO", "TERM,", "TERM INT", "KILL", "STOP", "CHLD", "URG", "PIPE", "TSTP", "PROF", "RTMIN"}, []string{"USR1,HUP"}},
	"reload-on":         {[]string{"FOO", "USR1,KILL", "CHLD", "65"}, []string{"USR1,HUP"}},
	"forward":           {[]string{"", "USR1", "=USR1", "USR1=FOO", "KILL=TERM", "CHLD=TERM", "USR1=USR2=TERM"}, []string{"USR1=USR2", "USR1="}},
	"stop-scope":        {[]string{"", "all", "Leader"}, []string{"group or leader"}},
	"stop-timeout":      {badDurations("0s"), []string{"from 1ms", "8s"}},
	"drain-delay":       {badDurations(), []string{"from 0s", "8s"}},
	"new-privs":         {[]string{"", "yes", "2"}, []string{"true or false"}},
	"grace-period":      {badDurations(), []string{"from 0s", "8s"}},
	"termination-log":   {[]string{"a\x00b"}, []string{"the path of a file"}},
	"lost-ok":           {[]string{"", "yes", "2"}, []string{"true or false"}},
	"run-at-exit":       {[]string{"", "yes", "2"}, []string{"true or false"}},
	"ready":             {[]string{"", "yes", "Notify"}, []string{"auto", "notify", "started"}},
	"min-ready":         {badDurations(), []string{"from 0s"}},
	"ready-timeout":     {badDurations("0s"), []string{"from 1ms"}},
	"watchdog":          {badDurations(), []string{"from 0s"}},
	"reload-order":      {[]string{"", "start", "first"}, []string{"stop-first", "start-first"}},
	"reload-parallel":   {[]string{"", "0", "-1", "0%", "101%", "10 %", "half", "%", "65537"}, []string{"from 1 to 65536", "from 1% to 100%"}},
	"max-lifetime":      {badDurations(), []string{"from 0s"}},
	"max-messages":      {[]string{"", "-1", "1e3", "1099511627777"}, []string{"from 0 to 1099511627776"}},
	"listen":            {[]string{"", "8089", ":8089", "http://x:1", "tcp://", "tcp://x", "tcp://x:65536", "unix://a", "sysv://0", "tcp://x:1?reply=often"}, nil},
	"share":             {[]string{"", "8080", "http://x:1", "tcp://x", "tcp://x:65536", "unix://a", "sysv://1", "tcp://x:1?reply=always", "tcp://x:1?name=a:b", "tcp://x:1?cert=a&key=b"}, nil},
	"deliver":           {[]string{"", "json", "Frames", "execute"}, []string{"frames", "tagged", "lines", "exec"}},
	"concurrency":       {[]string{"", "0", "-1", "4097", "auto"}, []string{"from 1 to 4096"}},
	"retry-delay":       {badDurations(), nil},
	"retry-delay-max":   {badDurations(), nil},
	"max-failures":      {[]string{"", "-1", "x"}, nil},
	"window":            {[]string{"", "0", "-1", "4097", "automatic"}, []string{"from 1 to 4096", "auto"}},
	"queue-messages":    {[]string{"", "0", "1073741825", "many"}, []string{"from 1 to 1073741824"}},
	"reply-bytes":       {[]string{"", "0", "65535", "2G", "Auto"}, []string{"at least 65536 bytes", "less than 2GiB", "auto"}},
	"queue-bytes":       {[]string{"", "0", "1023", "2G", "3GiB", "64MB"}, []string{"at least 1024 bytes", "less than 2GiB"}},
	"max-message":       {[]string{"", "0", "2G", "-1"}, []string{"at least 1 bytes"}},
	"message-timeout":   {badDurations(), []string{"from 0s"}},
	"timeout-signal":    {[]string{"", "FOO", "0", "65"}, []string{"TERM", "1 to 64"}},
	"attempts":          {[]string{"", "0", "-1", "1048577"}, []string{"from 1 to 1048576"}},
	"http":              {[]string{"9090", "localhost", "127.0.0.1:", ":http", ":65536", ":-1", "http://127.0.0.1:9090", "::1:9090", "a b:1"}, []string{"HOST:PORT", "127.0.0.1:9090"}},
	"http-host":         {[]string{"", "pool:9090", "http://pool", "a b", "[::1]"}, []string{"metrics.example.com"}},
	"spool":             {[]string{"a\x00b"}, []string{"the path of a directory"}},
	"spool-bytes":       {[]string{"", "-1", "64", "1023K", "1.5G", "8796093022208M"}, []string{"64MiB", "at least 1MiB"}},
	"max-memory":        {[]string{"", "-1", "64", "1023K", "64MB", "1.5G", "64 M", "M", "8796093022208M", "0x400000", "99999999999999999999"}, []string{"64MiB", "at least 1MiB"}},
	"chdir":             {[]string{"a\x00b"}, []string{"the path of a directory"}},
	"user":              {[]string{"no-such-user", "4294967295", "4294967296", "-1", "0:no-such-group", "0:4294967295", "0:", ":0", "0:0:0"}, []string{"uid:gid"}},
	"oom-score-adj":     {[]string{"", "-1", "1001", "high"}, []string{"from 0 to 1000"}},
	"output":            {[]string{"", "JSON", "file"}, []string{"inherit", "prefix", "json"}},
	"log-level":         {[]string{"", "trace", "Info", "7"}, []string{"debug", "info", "warn", "error"}},
	"log-format":        {[]string{"", "xml"}, []string{"auto", "text", "json"}},
}

// badDurations are none for any flag; more are too short for this one.
func badDurations(more ...string) []string {
	return append(more, "", "8", "-1s", "8 s", "eight", "1d", "87601h", "9999999h", "99999999999999h")
}

func TestEveryFlagRefuses(t *testing.T) {
	for _, flag := range runFlags(new(options)).Names() {
		if _, ok := badValues[flag]; !ok && flag != "help" {
			t.Errorf("badValues has no --%s", flag)
		}
	}
	for name, bad := range badValues {
		for _, value := range bad.values {
			code, stdout, stderr := dispatched(t, "poolinit", "--"+name+"="+value, "/nonexistent")
			wantRefusal(t, code, stdout, stderr, append(bad.allows, "--"+name+": ", quoted(value)))
			if value == "" || strings.ContainsRune(value, 0) {
				continue // an empty variable is none, and no variable can hold a zero byte
			}
			t.Run(flags.Variable(name), func(t *testing.T) {
				t.Setenv(flags.Variable(name), value)
				code, stdout, stderr := dispatched(t, "poolinit", "/nonexistent")
				wantRefusal(t, code, stdout, stderr, append(bad.allows, flags.Variable(name)+": ", quoted(value)))
			})
		}
	}
}

func quoted(s string) string { return strconv.Quote(s) + " is not allowed" }

func wantRefusal(t *testing.T, code int, stdout, stderr string, words []string) {
	t.Helper()
	if code != flags.ExitUsage || stdout != "" {
		t.Errorf("exit code %d, stdout %q; want %d and nothing", code, stdout, flags.ExitUsage)
	}
	for _, w := range append(words, "poolinit: ", "Try 'poolinit --help'.") {
		if !strings.Contains(stderr, w) {
			t.Errorf("%q does not contain %q", stderr, w)
		}
	}
}

func TestRefusedCommandLines(t *testing.T) {
	for _, tt := range []struct {
		args string
		want string
	}{
		{"", "COMMAND is missing"},
		{"run", "COMMAND is missing"},
		{"--", "COMMAND is missing"},
		{"-n 2 --", "COMMAND is missing"},
		{"--workers", "--workers needs a value"},
		{"-n", "--workers needs a value"},
		{"--worker 2 x", "no flag --worker; did you mean --workers?"},
		{"--stop-timeot=2s x", "no flag --stop-timeot; did you mean --stop-timeout?"},
		{"--restart_delay=2s x", "did you mean --restart-delay?"},
		{"--hlep", "did you mean --help?"},
		{"-workers 4 x", "no flag -workers; did you mean --workers?"},
		{"-workers=4 x", "no flag -workers; did you mean --workers?"},
		{"-z x", "no flag -z"},
		{"--grace-period 9s x", "--grace-period 9s must be at least 2s longer than --stop-timeout 8s"},
		{"--grace-period 1s --stop-timeout 1s x", "--grace-period 1s must be at least 2s longer"},
		{"--deliver exec --listen tcp://:1 --stop-scope leader x", "--deliver exec cannot be combined with --stop-scope leader"},
		{"--deliver lines x", "--deliver lines needs --listen"},
		{"relaod", `there is no command relaod in $PATH; did you mean poolinit reload?`},
		{"-n 2 satus --json", `there is no command satus in $PATH; did you mean poolinit status?`},
		{"--service-host=1 x", "no flag --service-host"},
		{"-x y", "no flag -x"},
		{"-nx y", `--workers: "x" is not allowed`},
		{"--xxxxxxxxxxxxxxx y", "no flag --xxxxxxxxxxxxxxx\n"},
		{"--=3 y", "--=3"},
		{"--stop-timeout 5s --drain-delay 5s x", "--stop-timeout 5s must be longer than --drain-delay 5s"},
		{"--drain-delay 9s x", "--stop-timeout 8s must be longer than --drain-delay 9s"},
		{"--restart-delay 31s x", "--restart-delay-max 30s must not be shorter"},
		{"--min-ready 30s x", "--ready-timeout 30s must be longer than --min-ready 30s"},
		{"--deliver tagged x", "--deliver tagged needs --listen"},
		{"--concurrency 2 x", "--concurrency 2 needs --deliver tagged"},
		{"--deliver lines --concurrency 2 --listen tcp://:1 x", "--concurrency 2 needs --deliver tagged"},
		{"--retry-delay 31s x", "--retry-delay-max 30s must not be shorter than --retry-delay 31s"},
		{"--deliver tagged --max-message 1GiB --listen tcp://:1 x", "--max-message 1073741824 is too large for --deliver tagged"},
		{"--deliver exec x", "--deliver exec needs --listen"},
		{"--deliver exec --listen tcp://:1 --ready notify x", "--deliver exec cannot be combined with --ready notify"},
		{"--deliver exec --listen tcp://:1 --watchdog 3s x", "--deliver exec cannot be combined with --watchdog"},
		{"--deliver exec --listen tcp://:1 --window 2 x", "--deliver exec cannot be combined with --window 2"},
		{"--deliver exec --listen tcp://:1 --share tcp://:2 x", "--deliver exec cannot be combined with --share"},
	} {
		code, stdout, stderr := dispatched(t, append([]string{"poolinit"}, strings.Fields(tt.args)...)...)
		wantRefusal(t, code, stdout, stderr, []string{tt.want})
	}
	code, stdout, stderr := dispatched(t, "poolinit", "--", "")
	wantRefusal(t, code, stdout, stderr, []string{`COMMAND is ""`})
}

// parsed reads a command line and an environment.
func parsed(args, environ []string) (o *options, warnings []string, err error) {
	o = new(options)
	warnings, err = o.parse(runFlags(o), args, environ)
	return o, warnings, err
}

// Whatever is refused starts nothing; what is right gives these options.
func TestDefaults(t *testing.T) {
	o, warnings, err := parsed([]string{"x"}, nil)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := &options{Config: daemon.Config{
		Command: []string{"x"}, OOMScoreAdj: 500, Output: output.Inherit, Deliver: "frames", TerminationLog: "/dev/termination-log",
		Signals: daemon.Signals{Stop: signals.Stop, Reload: signals.Reload, Forward: map[syscall.Signal]syscall.Signal{}},
		Pool: supervisor.Config{
			Workers: 1, Restart: supervisor.RestartAlways,
			RestartDelay: 100 * time.Millisecond, RestartDelayMax: 30 * time.Second,
			HealthyAfter: 10 * time.Second, GiveUp: 10,
			StopSignal: syscall.SIGTERM, StopTimeout: 8 * time.Second, ReloadParallel: supervisor.Part{Percent: 10},
			Ready: supervisor.ReadyAuto, MinReady: 3 * time.Second, ReadyTimeout: 30 * time.Second, TimeoutSignal: syscall.SIGKILL,
		},
		Queue:      ipc.Config{QueueMessages: 1024, MaxMessage: 2 << 20, Attempts: 3, Concurrency: 1, RetryDelay: time.Second, RetryDelayMax: 30 * time.Second},
		SpoolBytes: 1 << 30,
		Log:        daemon.LogConfig{Level: "info", Format: "auto"},
	}}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
}

func TestGoodValues(t *testing.T) {
	all := "--deliver lines --listen tcp://:1 --window 8 --queue-messages 1 --queue-bytes 1KiB --reply-bytes 64KiB --max-message 1 --max-messages 7 --message-timeout 5s " +
		"--timeout-signal QUIT --attempts 1 --retry-delay 0s --retry-delay-max 1m --max-failures 3 --spool spool/a --spool-bytes 2GiB -n auto --restart never --restart-delay 1ms --restart-delay-max 87600h --healthy-after 0s --give-up 0 " +
		"--stop-on term,RTMIN+5 --reload-on WINCH --forward USR2=USR1 --forward ALRM= --stop-signal SIGRTMIN+3 --stop-scope leader --reload-parallel 3 --chdir / --grace-period 2m --termination-log a --lost-ok --stop-timeout 1m30s --drain-delay 1m --run-at-exit --ready notify --min-ready 29s --ready-timeout 31s " +
		"--watchdog 3s --reload-order start-first --max-lifetime 24h --max-memory 64MiB --user 1000:1001 --oom-score-adj 1 --output json " +
		"--http :9090 --log-level error --log-format text -- x -n 3"
	o, _, err := parsed(strings.Fields(all), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Listen) != 1 || o.Listen[0].Name != "tcp://:1" {
		t.Errorf("--listen: %v", o.Listen)
	}
	o.Listen = nil
	asUser, err := flags.ParseUser("1000:1001")
	if err != nil {
		t.Fatal(err)
	}
	want := &options{
		forward: []flags.Forwarding{{From: syscall.SIGUSR2, To: syscall.SIGUSR1}, {From: syscall.SIGALRM}},
		user:    asUser,
		Config: daemon.Config{
			Signals: daemon.Signals{Stop: signals.SetOf(syscall.SIGTERM, signals.RTMIN+5), Reload: signals.SetOf(syscall.SIGWINCH),
				Forward: map[syscall.Signal]syscall.Signal{syscall.SIGUSR2: syscall.SIGUSR1, syscall.SIGALRM: 0}},
			Command: []string{"x", "-n", "3"}, Chdir: "/", TerminationLog: "a", LostOK: true, GracePeriod: 2 * time.Minute, Output: output.JSON, OOMScoreAdj: 1, Deliver: "lines", DrainDelay: time.Minute, RunAtExit: true, Spool: "spool/a", SpoolBytes: 2 << 30, HTTP: ":9090",
			Pool: supervisor.Config{
				Workers: 0, Restart: supervisor.RestartNever,
				RestartDelay: time.Millisecond, RestartDelayMax: flags.MaxDuration,
				StopSignal: signals.RTMIN + 3, StopTimeout: 90 * time.Second,
				Ready: supervisor.ReadyNotify, MinReady: 29 * time.Second, ReadyTimeout: 31 * time.Second, Watchdog: 3 * time.Second,
				StopAlone: true, ReloadParallel: supervisor.Part{Number: 3},
				StartFirst: true, MaxLifetime: 24 * time.Hour, MaxMemory: 64 << 20, TimeoutSignal: syscall.SIGQUIT,
			},
			Queue: ipc.Config{Window: 8, QueueMessages: 1, QueueBytes: 1024, ReplyBytes: 64 << 10, MaxMessage: 1, MaxMessages: 7, MessageTimeout: 5 * time.Second, Attempts: 1,
				Concurrency: 1, RetryDelay: 0, RetryDelayMax: time.Minute, MaxFailures: 3},
			Log: daemon.LogConfig{Level: "error", Format: "text"},
		},
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
}

// A signal has one meaning. --stop-on and --forward go before what --reload-on is by
// default.
func TestSignalsHaveOneMeaning(t *testing.T) {
	for args, want := range map[string]string{
		"--forward USR1=USR2 x":                    "reload HUP",
		"--stop-on USR1 x":                         "reload HUP",
		"--reload-on= x":                           "reload",
		"--stop-on INT --forward TERM=QUIT x":      "reload USR1 HUP",
		"--stop-on USR1 --reload-on USR1 x":        "--stop-on and --reload-on both have USR1: leave it out of one of them",
		"--reload-on USR1 --forward USR1=USR2 x":   "--forward USR1=... is not possible while --reload-on has USR1: take it out there",
		"--forward TERM=QUIT x":                    "--forward TERM=... is not possible while --stop-on has TERM: take it out there; --stop-signal says what workers get at a stop",
		"--forward USR2=USR1 --forward USR2=HUP x": "--forward has USR2 twice",
	} {
		o, _, err := parsed(strings.Fields(args), nil)
		got := fmt.Sprint(err)
		if err == nil {
			got = "reload"
			for _, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGHUP} {
				if o.Signals.Reload[sig] {
					got += " " + strings.TrimPrefix(signals.Name(sig), "SIG")
				}
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}

// What --min-ready is where it is not given, and what --ready means to a command
// that runs once a message.
func TestReadinessDefaults(t *testing.T) {
	for _, tt := range []struct {
		args     string
		environ  []string
		ready    supervisor.Readiness
		minReady time.Duration
	}{
		{"x", nil, supervisor.ReadyAuto, 3 * time.Second},
		{"--min-ready 1s x", nil, supervisor.ReadyAuto, time.Second},
		{"--min-ready 0s x", nil, supervisor.ReadyAuto, 0},
		{"x", []string{"POOLINIT_MIN_READY=2s"}, supervisor.ReadyAuto, 2 * time.Second},
		{"--ready-timeout 1s x", nil, supervisor.ReadyAuto, 500 * time.Millisecond},
		{"--ready notify x", nil, supervisor.ReadyNotify, 0},
		{"--ready notify --min-ready 3s x", nil, supervisor.ReadyNotify, 3 * time.Second},
		{"--ready notify x", []string{"POOLINIT_MIN_READY=2s"}, supervisor.ReadyNotify, 2 * time.Second},
		{"--ready started x", nil, supervisor.ReadyStarted, 0},
		{"--ready started --min-ready 2s x", nil, supervisor.ReadyStarted, 2 * time.Second},
		{"--deliver exec --listen tcp://:1 x", nil, supervisor.ReadyStarted, 0},
		{"--deliver exec --listen tcp://:1 --ready auto x", nil, supervisor.ReadyStarted, 0},
	} {
		o, _, err := parsed(strings.Fields(tt.args), tt.environ)
		if err != nil {
			t.Errorf("%q: %v", tt.args, err)
			continue
		}
		if o.Pool.Ready != tt.ready || o.Pool.MinReady != tt.minReady {
			t.Errorf("%q %q: %s, %s; want %s, %s", tt.args, tt.environ, o.Pool.Ready, o.Pool.MinReady, tt.ready, tt.minReady)
		}
	}
}

// Where the flags end and COMMAND begins.
func TestWhereCommandBegins(t *testing.T) {
	for _, tt := range []struct {
		args    string
		workers int
		command string
	}{
		{"x", 1, "x"},
		{"run x", 1, "run x"}, // dispatch has taken its own run
		{"-n 3 x", 3, "x"},
		{"-n3 x", 3, "x"},
		{"-n=3 x", 3, "x"},
		{"--workers=3 x -n 4", 3, "x -n 4"},
		{"x -n 4 --help --no-such-flag", 1, "x -n 4 --help --no-such-flag"},
		{"-n 3 -- x", 3, "x"},
		{"-- -n 3", 1, "-n 3"},
		{"-- -- x", 1, "-- x"},
		{"x -- y", 1, "x -- y"},
		{"-n 3 -- x -- -n 4", 3, "x -- -n 4"},
		{"-- --help", 1, "--help"},
		{"- x", 1, "- x"},
		{"-n 2 -n 5 x", 5, "x"},
	} {
		o, _, err := parsed(strings.Fields(tt.args), nil)
		if err != nil {
			t.Errorf("%q: %v", tt.args, err)
			continue
		}
		if got := strings.Join(o.Command, " "); o.Pool.Workers != tt.workers || got != tt.command {
			t.Errorf("%q: %d workers of %q, want %d of %q", tt.args, o.Pool.Workers, got, tt.workers, tt.command)
		}
	}
}

// A subcommand's name is a COMMAND after "--" or "run".
func TestSubcommandNamesCanBeCommands(t *testing.T) {
	for _, args := range [][]string{{"run", "--restart", "bad", "version"}, {"--restart", "bad", "version"}} {
		code, _, stderr := dispatched(t, append([]string{"poolinit"}, args...)...)
		if code != flags.ExitUsage || !strings.Contains(stderr, "--restart") {
			t.Errorf("%q: code %d, %q", args, code, stderr)
		}
	}
}

func TestUsageNamesEverything(t *testing.T) {
	text := usage()
	for _, c := range commands(About{}) {
		if !strings.Contains(text, c.name) {
			t.Errorf("--help does not name the subcommand %s", c.name)
		}
	}
	for line := range strings.Lines(text) {
		if strings.TrimRight(line, " \n") != strings.TrimRight(line, "\n") {
			t.Errorf("%q ends in spaces", line)
		}
	}
}

// Each flag of the pool and of the queue reaches the config: one that is forgotten
// would have no effect.
func TestConfigIsWhole(t *testing.T) {
	o, _, err := parsed(strings.Fields("-n 7 --restart on-failure --healthy-after 3s --drain-delay 1s --ready notify --min-ready 1s "+
		"--watchdog 1s --reload-order start-first --stop-scope leader --max-lifetime 1s --max-memory 1M --window 3 --queue-bytes 1M --reply-bytes 1M --max-messages 3 --message-timeout 1s --max-failures 3 x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	notFlags := []string{"Interactive", "OnReload", "Look", "LastLines", "Background", "Foreground", "Memory", "OOMKilled", "ProcState", "Awake", "Format", "Spool", "GivenUp"} // daemon sets these
	if o.DrainDelay == 0 {
		t.Error("DrainDelay is zero")
	}
	for _, config := range []any{o.Pool, o.Queue} {
		cfg := reflect.ValueOf(config)
		for i := range cfg.NumField() {
			if name := cfg.Type().Field(i).Name; cfg.Field(i).IsZero() && !slices.Contains(notFlags, name) {
				t.Errorf("%s of %s is zero", name, cfg.Type())
			}
		}
	}
}

func FuzzParseRun(f *testing.F) {
	f.Add("-n 3 -- x", "POOLINIT_WORKERS=3")
	f.Add("--stop-timeout=8s --max-memory 64M x", "POOLINIT_X")
	f.Fuzz(func(t *testing.T, args, environ string) {
		o, _, err := parsed(strings.Fields(args), strings.Fields(environ))
		switch {
		case err != nil:
		case len(o.Command) == 0 || o.Command[0] == "":
			t.Errorf("no command: %+v", o)
		case o.Pool.Workers < 0 || o.Pool.Workers > supervisor.MaxWorkers || o.Pool.StopTimeout <= o.DrainDelay || o.Pool.StopTimeout > flags.MaxDuration:
			t.Errorf("%+v", o)
		case !slices.Contains([]string{"debug", "info", "warn", "error"}, o.Log.Level):
			t.Errorf("log level %q", o.Log.Level)
		}
	})
}
