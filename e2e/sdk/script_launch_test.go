package sdk

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// interpreter returns the path of the language's program, whatever PATH is.
func (s scriptSDK) interpreter(t testing.TB) string {
	t.Helper()
	out, err := exec.Command(s.needs, s.whoAmI...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// poolinit is looked for in POOLINIT, PATH, and beside the script.
func TestSDKScriptFindsPoolinit(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		interpreter, sh := s.interpreter(t), "/bin/sh"
		for _, place := range []string{"PATH", "POOLINIT", "beside"} {
			dir, tools := s.dir(t), t.TempDir()
			link := map[string]string{"PATH": tools + "/poolinit", "POOLINIT": tools + "/another-name", "beside": dir + "/poolinit"}[place]
			if err := os.Symlink(harness.Binary(t), link); err != nil {
				t.Fatal(err)
			}
			env := []string{"PATH=" + tools, "POOL_URL=" + harness.UnixURL(t, "?reply=always"), "POOLINIT="}
			if place == "POOLINIT" {
				env[2] += link
			}
			p := scriptPool{s: s, Pool: harness.PoolOf(harness.Start(t, harness.Program{Env: env,
				Args: []string{sh, "-c", "cd " + dir + " && exec " + interpreter + " pool" + s.ext}}))}
			p.awaitUps(2) // the path of the script was relative
			p.stop(0)
			if t.Failed() {
				t.Errorf("with poolinit in %s", place)
			}
		}
	})
}

// Where it is not, what was looked for is told, and what to do.
func TestSDKScriptFindsNoPoolinit(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		dir, tools, interpreter := s.dir(t), t.TempDir(), s.interpreter(t)
		noProgram := filepath.Join(dir, "pool"+s.ext)
		for _, tt := range []struct {
			env  string
			says []string
		}{
			{"POOLINIT=", []string{tools, dir + "/poolinit", "POOLINIT is not set", "Put it into"}},
			{"POOLINIT=/nowhere/poolinit", []string{"POOLINIT is '/nowhere/poolinit'", "unset it"}},
			{"POOLINIT=" + noProgram, []string{"POOLINIT is '" + noProgram + "'"}},
			{"POOLINIT=" + dir, []string{"POOLINIT is '" + dir + "'"}},
		} {
			p, code := harness.Run(t, harness.Program{Args: []string{interpreter, noProgram},
				Env: []string{"PATH=" + tools, tt.env, "POOL_URL=" + harness.UnixURL(t, "")}})
			checkSays(t, p, code, 127, tt.says...)
			if n := len(p.Stderr.Lines()); n > 2 {
				t.Errorf("%d lines:\n%s", n, p.Stderr.String())
			}
		}
		p, code := harness.Run(t, harness.Program{Args: []string{s.needs, noProgram},
			Env: []string{"POOLINIT=" + badInterpreter(t), "POOL_URL=" + harness.UnixURL(t, "")}})
		if code != 126 && code != 127 {
			t.Errorf("exit code %d", code)
		}
		checkSays(t, p, code, code, "cannot run ")
	})
}

// badInterpreter returns a program that cannot be started.
func badInterpreter(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "poolinit")
	harness.InstallScript(t, path, "#!/nowhere/interpreter\n")
	return path
}

func checkSays(t testing.TB, p *harness.Process, code, want int, says ...string) {
	t.Helper()
	if code != want {
		t.Errorf("exit code %d, want %d", code, want)
	}
	for _, text := range says {
		if !strings.Contains(p.Stderr.String(), text) {
			t.Errorf("stderr does not say %q:\n%s", text, p.Stderr.String())
		}
	}
}

// Programs that make no sense end with an explanation.
func TestSDKScriptMistakes(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		dir := s.dir(t)
		script := filepath.Join(dir, "pool"+s.ext)
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		eval := map[string]string{".py": "-c", ".js": "-e"}[s.ext]
		cd := []string{"sh", "-c", `cd "$0" && exec "$@"`, dir}
		url := "POOL_URL=" + harness.UnixURL(t, "")
		for name, tt := range map[string]struct {
			args []string
			env  string
			says string
		}{
			"stdin":           {append(cd, "sh", "-c", "exec "+s.needs+" < "+script), url, "that is no file"},
			"stdin, -":        {append(cd, "sh", "-c", "exec "+s.needs+" - < "+script), url, "that is no file"},
			"/dev/stdin":      {append(cd, "sh", "-c", "exec "+s.needs+" /dev/stdin < "+script), url, "it can be read once only"},
			"eval":            {append(cd, s.needs, eval, string(text)), url, "that is no file"},
			"no listen":       {[]string{s.needs, script}, "POOL_URL=", "listen() is missing"},
			"no message":      {[]string{s.needs, script}, url + "\nSTART=loops", "is missing"},
			"exec":            {[]string{s.needs, script}, url + "\nPOOLINIT_DELIVER=exec", "--deliver exec"},
			"worker, no fd":   {[]string{s.needs, script}, "POOL_URL=\nPOOLINIT_WORKER_ID=0", "gives this script no messages"},
			"worker, exec":    {[]string{s.needs, script}, "POOL_URL=\nPOOLINIT_WORKER_ID=0\nPOOLINIT_DELIVER=exec", "--deliver exec"},
			"worker, bad fd":  {[]string{s.needs, script}, "POOLINIT_WORKER_ID=0\nPOOLINIT_DELIVER=frames\nPOOLINIT_FD=99", "POOLINIT_FD 99 is no socket"},
			"worker, no id":   {[]string{s.needs, script}, "POOLINIT_WORKER_ID=x", "POOLINIT_WORKER_ID is 'x', which is no number"},
			"worker, nothing": {[]string{s.needs, script}, "START=loops\nPOOLINIT_WORKER_ID=0\nPOOLINIT_DELIVER=frames", "gives this script messages"},
		} {
			p, code := harness.Run(t, harness.Program{Args: tt.args, Env: append(strings.Split(tt.env, "\n"), "POOLINIT="+harness.Binary(t), "PYTHONPATH="+dir)})
			if code != 1 || !strings.Contains(p.Stderr.String(), tt.says) || strings.Contains(p.Stdout.String(), "start\n") {
				t.Errorf("%s: exit code %d\n%s", name, code, p.Stderr.String())
			}
		}
	})
}

// The pool's port is taken; start() is called in a worker, or it fails: the pool
// ends, and says why.
func TestSDKScriptTwice(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		first := s.startAt(t, "tcp://"+harness.FreePort(t))
		script := filepath.Join(s.dir(t), "pool"+s.ext)
		env := []string{"POOLINIT=" + harness.Binary(t), "POOLINIT_GIVE_UP=2", "POOLINIT_RESTART_DELAY=1ms", "POOLINIT_HEALTHY_AFTER=1m"}
		p, code := harness.Run(t, harness.Program{Args: []string{s.needs, script}, Env: append(env, "POOL_URL="+first.url)})
		checkSays(t, p, code, 2, "address already in use")
		env = append(env, "POOL_URL="+harness.UnixURL(t, ""))
		p, code = harness.Run(t, harness.Program{Args: []string{s.needs, script}, Env: append(env, "START=again")})
		checkSays(t, p, code, 1, "start() after start()")
		p, code = harness.Run(t, harness.Program{Args: []string{s.needs, script}, Env: append(env, "START=fails")})
		checkSays(t, p, code, 1, "no database", "pool"+s.ext)
		if strings.Contains(p.Stdout.String(), "down worker") {
			t.Error("a worker that did not start came down")
		}
		first.stop(0)
	})
}

// The flags that the script stands for, and how the environment outranks them.
func TestSDKScriptFlags(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		dir := s.dir(t)
		fake, interpreter := filepath.Join(dir, "poolinit"), s.interpreter(t)
		harness.InstallScript(t, fake, "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 9\n")
		flags := func(env ...string) []string {
			p, code := harness.Run(t, harness.Program{Args: []string{interpreter, filepath.Join(dir, "pool"+s.ext), "an argument"},
				Env: append(env, "POOLINIT=", "PATH="+t.TempDir(), "POOL_URL=unix:///x?reply=always")})
			if code != 9 {
				t.Fatalf("exit code %d\n%s", code, p.Stderr.String())
			}
			before, after, _ := strings.Cut(p.Stdout.String(), "--\n")
			if after = strings.TrimSpace(after); !strings.HasSuffix(after, "/pool"+s.ext+"\nan argument") {
				t.Errorf("the command is %q", after)
			}
			list := strings.Fields(before)
			slices.Sort(list)
			return list
		}
		want := []string{"--deliver=tagged", "--healthy-after=0s", "--listen=unix:///x?reply=always", "--max-message=9MiB", "--ready=notify",
			"--run-at-exit=true", "--workers=2", "run", "start"}
		if got := flags("MAX_MESSAGE=9MiB"); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		got := flags("POOLINIT_WORKERS=3", "POOLINIT_LISTEN=unix:///y", "POOLINIT_READY=started", "POOLINIT_HEALTHY_AFTER=1s", "POOLINIT_RUN_AT_EXIT=false",
			"POOLINIT_DELIVER=frames")
		if want := []string{"run", "start"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// Without messages workerStart is the worker, and SIGTERM ends it.
func TestSDKScriptLoop(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.startAt(t, "", "START=loops")
		if err := syscall.Kill(p.outside(p.ups()[0]), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.awaitUps(3)
		p.Signal(syscall.SIGUSR1)
		p.ExpectLog("reload done", nil)
		p.awaitUps(5)
		p.stop(0)
		for _, r := range p.Records() {
			if r.Message == "worker exited" && (r.Code != 0 || r.Signal != "") {
				t.Errorf("%+v", r)
			}
		}
	})
}
