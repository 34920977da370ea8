package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/supervisor/launch"
)

func TestVariablesAreFlags(t *testing.T) {
	for _, tt := range []struct {
		args    string
		environ []string
		workers int
	}{
		{"x", []string{"POOLINIT_WORKERS=3"}, 3},
		{"-n 2 x", []string{"POOLINIT_WORKERS=3"}, 2},
		{"-n 1 x", []string{"POOLINIT_WORKERS=3"}, 1},   // the default, but said
		{"-n 2 x", []string{"POOLINIT_WORKERS=bad"}, 2}, // nobody asks it
		{"x", []string{"POOLINIT_WORKERS="}, 1},
		{"x", []string{"POOLINIT_WORKERS"}, 1},
		{"x", []string{"poolinit_workers=3"}, 1},
		{"x", []string{"POOLINIT_WORKERS=3", "POOLINIT_WORKER_ID=0"}, 1},
		{"x", []string{"POOLINIT_WORKER_ID=0", "POOLINIT_WORKERS=bad"}, 1},
		{"-n 2 x", []string{"POOLINIT_WORKERS=3", "POOLINIT_WORKER_ID=0"}, 2},
	} {
		o, warnings, err := parsed(strings.Fields(tt.args), tt.environ)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%q %q: %v, %q", tt.args, tt.environ, err, warnings)
			continue
		}
		if o.Pool.Workers != tt.workers {
			t.Errorf("%q %q: %d workers, want %d", tt.args, tt.environ, o.Pool.Workers, tt.workers)
		}
	}
}

// Every flag can be set by its variable, and a worker does not inherit it.
func TestEveryFlagHasAVariable(t *testing.T) {
	s := runFlags(new(options))
	for _, flag := range s.Names() {
		name := flags.Variable(flag)
		if flag == "help" {
			if s.IsVariable(name) {
				t.Errorf("%s is a setting", name)
			}
			continue
		}
		if !s.IsVariable(name) {
			t.Errorf("%s is no setting, or Kubernetes makes it for a Service called poolinit", name)
		}
		both := []string{"POOLINIT_WORKERS", "POOLINIT_DELIVER", "POOLINIT_CONCURRENCY"} // a worker is told its pool's
		if !slices.Contains(both, name) && slices.Contains(launch.OwnVariables(), name) {
			t.Errorf("--%s: %s is what workers are told", flag, name)
		}
	}
}

func TestUnknownVariablesWarn(t *testing.T) {
	for _, tt := range []struct{ variable, want string }{
		{"POOLINIT_WORKER=3", "POOLINIT_WORKER is not a poolinit setting; did you mean POOLINIT_WORKERS?"},
		{"POOLINIT_STOP_TIMEOT=3s", "POOLINIT_STOP_TIMEOT is not a poolinit setting; did you mean POOLINIT_STOP_TIMEOUT?"},
		{"POOLINIT_stop_timeout=3s", "POOLINIT_stop_timeout is not a poolinit setting; did you mean POOLINIT_STOP_TIMEOUT?"},
		{"POOLINIT_QQQQQQQQ=1", "POOLINIT_QQQQQQQQ is not a poolinit setting"},
		{"POOLINIT_=1", "POOLINIT_ is not a poolinit setting"},
		{"POOLINIT_HELP=1", "POOLINIT_HELP is not a poolinit setting"},
		{"POOLINIT_PORTAL=1", "POOLINIT_PORTAL is not a poolinit setting"}, // PORT, but no port
		{"POOLINIT_FD=3", "POOLINIT_FD is not a poolinit setting"},         // not in a worker
		{"POOLINIT_SERVICE_HOST=10.0.0.1", ""},
		{"POOLINIT_SERVICE_PORT=80", ""},
		{"POOLINIT_SERVICE_PORT_HTTP=80", ""},
		{"POOLINIT_PORT=tcp://10.0.0.1:80", ""},
		{"POOLINIT_PORT_80_TCP=tcp://10.0.0.1:80", ""},
		{"POOLINIT_PORT_80_TCP_ADDR=10.0.0.1", ""},
		{"POOLINIT=1", ""},
		{"MY_POOLINIT_WORKERS=3", ""},
		{"", ""},
		{"=", ""},
	} {
		_, warnings, err := parsed([]string{"x"}, []string{tt.variable})
		if err != nil {
			t.Errorf("%s: %v", tt.variable, err)
		}
		switch got := strings.Join(warnings, "|"); {
		case got == tt.want:
		case tt.want != "" && strings.HasPrefix(got, tt.want+"; did you mean POOLINIT_") && len(warnings) == 1:
			// whatever is near
		default:
			t.Errorf("%s: %q, want %q", tt.variable, got, tt.want)
		}
	}
}

// In a worker of an outer pool none of what that pool said is a setting, or
// worth a warning.
func TestInsideAWorker(t *testing.T) {
	environ := []string{"POOLINIT_WORKER_ID=3", "POOLINIT_WORKERS=8", "POOLINIT_GENERATION=2", "POOLINIT_DELIVER=exec",
		"POOLINIT_FD=3", "POOLINIT_MESSAGE_ID=17", "POOLINIT_ATTEMPT=2", "POOLINIT_SOURCE=tcp://:1", "POOLINIT_RESTART=never"}
	o, warnings, err := parsed([]string{"x"}, environ)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if o.Pool.Workers != 1 || o.Pool.Restart != "never" || o.Deliver != "frames" {
		t.Errorf("%d workers, restart %s, deliver %s; want 1, never, frames", o.Pool.Workers, o.Pool.Restart, o.Deliver)
	}
}

func TestWorkersEnvironment(t *testing.T) {
	for name, value := range map[string]string{
		"POOLINIT_STOP_TIMEOUT": "3s", "POOLINIT_WORKERS": "4", "POOLINIT_WORKER_ID": "9", "POOLINIT_GENERATION": "9",
		"POOLINIT_DELIVER": "frames", "POOLINIT_FD": "9", "POOLINIT_SHARE": "tcp://:2", "POOLINIT_SPOOL": "spool",
		"POOLINIT_MESSAGE_ID": "9", "POOLINIT_ATTEMPT": "9", "POOLINIT_SOURCE": "tcp://:1", "POOLINIT_EVENT": "shutdown",
		"NOTIFY_SOCKET": "/run/outer", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1",
		"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x",
		"POOLINIT_SERVICE_HOST": "10.0.0.1", "POOLINIT_STOP_TIMEOT": "3s", "POOLINITX": "1", "OTHER": "a=b", "EMPTY": "",
	} {
		t.Setenv(name, value)
	}
	env := workersEnviron(runFlags(new(options)))
	for _, want := range []string{"POOLINIT_SERVICE_HOST=10.0.0.1", "POOLINIT_STOP_TIMEOT=3s", "POOLINITX=1", "OTHER=a=b", "EMPTY="} {
		if !slices.Contains(env, want) {
			t.Errorf("not inherited: %s", want)
		}
	}
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		for _, dropped := range []string{"POOLINIT_STOP_TIMEOUT", "POOLINIT_WORKERS", "POOLINIT_WORKER_ID", "POOLINIT_GENERATION",
			"POOLINIT_DELIVER", "POOLINIT_FD", "POOLINIT_SHARE", "POOLINIT_SPOOL", "POOLINIT_MESSAGE_ID", "POOLINIT_ATTEMPT", "POOLINIT_SOURCE", "POOLINIT_EVENT", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
			if name == dropped {
				t.Errorf("inherited: %s", v)
			}
		}
	}
}

// A variable is a list where the flag may be repeated.
func TestListVariables(t *testing.T) {
	for variable, want := range map[string]string{
		"tcp://:1":                               "tcp://:1",
		"tcp://:1,unix:///a":                     "tcp://:1 unix:///a",
		"tcp://:1?allow=10.0.0.0/8,::1":          "tcp://:1",
		"tcp://:1?allow=10.0.0.0/8,::1,tcp://:2": "tcp://:1 tcp://:2",
		"unix:///a,b":                            "unix:///a,b",
	} {
		for args, want := range map[string]string{"x": want, "--listen tcp://:7 --listen tcp://:8 x": "tcp://:7 tcp://:8"} {
			o, _, err := parsed(strings.Fields(args), []string{"POOLINIT_LISTEN=" + variable})
			if err != nil {
				t.Errorf("%s: %v", variable, err)
				continue
			}
			var names []string
			for _, u := range o.Listen {
				names = append(names, u.Name)
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%q, %s: %s, want %s", args, variable, got, want)
			}
		}
	}
	for _, bad := range []string{",", "tcp://:1,tcp://", ",tcp://:1"} {
		if _, _, err := parsed([]string{"x"}, []string{"POOLINIT_LISTEN=" + bad}); err == nil || !strings.HasPrefix(err.Error(), "POOLINIT_LISTEN: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// So it is with shared sockets.
func TestListVariableOfShares(t *testing.T) {
	o, _, err := parsed([]string{"x"}, []string{"POOLINIT_SHARE=tcp://:8080?name=web,unix:///a,b"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range o.Share {
		names = append(names, s.URL+" "+s.Name)
	}
	if want := []string{"tcp://:8080 web", "unix:///a,b unix-a,b"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}
