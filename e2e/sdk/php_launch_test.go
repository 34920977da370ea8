package sdk

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// phpLoop is a program whose workers have a loop of their own, and that says how
// it was started.
const phpLoop = `
$pool = new Poolinit\Pool(1);
$pool->on('start', function (Poolinit\Pool $pool): void { echo "start in ", getmypid(), "\n"; });
$pool->on('workerStart', function (Poolinit\Pool $pool, int $id) use ($argv): void {
    echo "worker $id of $pool->masterPid: ", implode('|', array_slice($argv, 1)), ' ', ini_get('precision'), "\n";
    while ($pool->running) {
        usleep(10000);
    }
    echo "out of the loop\n";
});
$pool->on('workerStop', function (): void { echo "stopped\n"; });
$pool->on('shutdown', function (Poolinit\Pool $pool): void {
    echo "shutdown below $pool->masterPid, worker $pool->workerId, ", $pool->running ? 'runs' : 'has ended', "\n";
});
$pool->start();
echo "after start\n";`

// The program is run again as it was, whatever PHP's options and however it was
// named; PID 1 stays PID 1.
func TestSDKPHPLaunch(t *testing.T) {
	needPHPModules(t, "pcntl", "posix")
	file := phpFile(t, phpLoop)
	dir, name := filepath.Split(file)
	shebang := filepath.Join(dir, "shebang")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	harness.InstallScript(t, shebang, "#!/usr/bin/env php\n"+string(text))
	if err := os.Symlink(name, filepath.Join(dir, "link.php")); err != nil {
		t.Fatal(err)
	}
	cd := "chdir(" + fmt.Sprintf("%q", os.TempDir()) + ");"
	code := strings.TrimPrefix(string(text), "<?php\n\ndeclare(strict_types=1);\n")
	elsewhere := filepath.Join(dir, "elsewhere.php")
	harness.InstallScript(t, elsewhere, strings.Replace(string(text), "$pool->start();", cd+"$pool->start();", 1))
	harness.InstallScript(t, filepath.Join(dir, "titled.php"), strings.Replace(string(text), "$pool->start();", `cli_set_process_title("busy"); $pool->start();`, 1))
	prepended := filepath.Join(dir, "prepended.php")
	harness.InstallScript(t, prepended, `<?php echo "prepended\n";`)
	for label, tt := range map[string]struct{ command, says string }{
		"absolute":       {"exec php " + file, "worker 0 of 1:  14"},
		"arguments":      {"exec php " + file + " a '' 'b c' --d", "worker 0 of 1: a||b c|--d 14"},
		"relative":       {"cd " + dir + "; exec php " + name + " x", "worker 0 of 1: x 14"},
		"options":        {"cd " + dir + "; exec php -d precision=9 -dmemory_limit=64M " + name + " -n x", "worker 0 of 1: -n|x 9"},
		"-f --":          {"cd " + dir + "; exec php -d precision=9 -f " + name + " -- -x y", "worker 0 of 1: -x|y 9"},
		"link":           {"cd " + dir + "; exec php link.php", "worker 0 of 1:  14"},
		"shebang":        {"cd " + dir + "; exec ./shebang x", "worker 0 of 1: x 14"},
		"chdir":          {"cd " + dir + "; exec php elsewhere.php x", "worker 0 of 1: x 14"},
		"chdir, -d":      {"cd " + dir + "; exec php -d auto_prepend_file=prepended.php elsewhere.php x", "worker 0 of 1: x 14"},
		"-r":             {"exec php -r '" + strings.ReplaceAll(code, "'", `'\''`) + "' -- x", "worker 0 of 1: x 14"},
		"title":          {"cd " + dir + "; exec php -d precision=9 titled.php x", "worker 0 of 1: x 14"},
		"under poolinit": {"exec " + harness.Binary(t) + " php " + file + " x", "worker 0 of 1: x 14"},
		"under a shell":  {"exec " + harness.Binary(t) + " sh -c 'php " + file + " x; exit $?'", "worker 0 of 1: x 14"},
	} {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			p := harness.PoolOf(harness.Start(t, withPoolinit(t, harness.Program{Args: []string{"sh", "-c", tt.command}})))
			p.Stdout.Expect(t, tt.says+"\n")
			p.Signal(syscall.SIGTERM)
			p.ExpectExit(0)
			p.Stdout.ExpectTimes(t, "out of the loop\nstopped\n", 1)
			if strings.HasPrefix(label, "under") {
				return // nobody has asked for more
			}
			p.Stdout.ExpectTimes(t, "start in 1\n", 1)
			p.Stdout.ExpectTimes(t, "shutdown below 1, worker -1, has ended\nafter start\n", 1)
		})
	}
}

// What cannot be run says so, and what to do.
func TestSDKPHPLaunchFails(t *testing.T) {
	needPHPModules(t, "pcntl", "posix")
	file := phpFile(t, phpLoop)
	empty, alone := t.TempDir(), filepath.Join(filepath.Dir(file), "alone.php")
	for from, to := range map[string]string{file: alone, sdkPHP(t, "Pool.php"): filepath.Join(filepath.Dir(file), "Pool.php")} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		harness.InstallScript(t, to, strings.ReplaceAll(string(text), sdkPHP(t, "Pool.php"), "Pool.php"))
	}
	taken := harness.FreePort(t)
	listen := func(body string) string {
		return phpFile(t, "$pool = new Poolinit\\Pool(1);\n"+body+"\n$pool->start();")
	}
	port := listen(fmt.Sprintf("$pool->listen('tcp://%s')->on('message', fn () => null);", taken))
	first := startPHP(t, port)
	first.Stderr.Expect(t, "accepting messages")
	for label, tt := range map[string]struct {
		command string
		code    int
		says    []string
	}{
		"absent": {"unset POOLINIT; PATH=" + empty + " exec " + lookPath(t, "php") + " " + alone, 127,
			[]string{"there is no program called poolinit", "$POOLINIT (not set)", "PATH (" + empty + ")", filepath.Dir(file) + "/poolinit",
				filepath.Dir(file) + "/vendor/bin/poolinit", filepath.Join(alone, "../../../bin/poolinit"), "COPY poolinit /usr/local/bin/poolinit"}},
		"$POOLINIT":    {"POOLINIT=/nowhere exec php " + file, 127, []string{`$POOLINIT is "/nowhere", which is no program`}},
		"a directory":  {"POOLINIT=/tmp exec php " + file, 127, []string{`$POOLINIT is "/tmp"`}},
		"not Linux's":  {"POOLINIT=" + badBinary(t) + " exec php " + file, 126, []string{"cannot be run: Exec format error"}},
		"stdin":        {"exec php < " + file, 1, []string{"came from stdin", "Put it into a file"}},
		"stdin, named": {"exec php /dev/stdin < " + file, 1, []string{"came from stdin"}},
		"dash":         {"exec php -- a b < " + file, 1, []string{"came from stdin"}},
		"a pipe":       {"cat " + file + " | php", 1, []string{"came from stdin"}},
		"no pcntl":     {"exec php -d disable_functions=pcntl_exec " + file, 1, []string{"PHP has no pcntl_exec()", "Install the pcntl extension"}},
		"port taken":   {"exec php " + port, 2, []string{taken, "address already in use"}},
		"bad flag":     {"exec php " + listen("$pool->set(['stop-timeot' => '3s'])->on('workerStart', fn () => null);"), 2, []string{"did you mean --stop-timeout?"}},
		"bad value":    {"exec php " + listen("$pool->set(['stop_timeout' => 3])->on('workerStart', fn () => null);"), 2, []string{`--stop-timeout: "3" is not allowed`}},
		"no name":      {"exec php " + listen("$pool->set(['--x' => 3]);"), 255, []string{`"--x" is no flag of poolinit run`}},
		"no event":     {"exec php " + listen("$pool->on('massage', fn () => null);"), 255, []string{`"massage" is no event`}},
		"no handler":   {"exec php " + listen("$pool->listen('tcp://127.0.0.1:1');"), 255, []string{"on('message', ...) was not called"}},
		"no listen":    {"exec php " + listen("$pool->on('message', fn () => null);"), 255, []string{"listen() was not called"}},
		"nothing":      {"exec php " + listen(""), 255, []string{"have nothing to do"}},
		"no workers":   {"exec php " + phpFile(t, "new Poolinit\\Pool(0);"), 255, []string{"the number of workers is 1 or more"}},
		"too early":    {"exec php " + listen("$pool->stop();"), 255, []string{"stop() is for a worker"}},
		"no message":   {"exec php " + listen("$pool->write('x');"), 255, []string{"write() is for a message handler"}},
		"twice": {"exec php " + listen(`$pool->set(['restart' => 'never'])->on('shutdown', fn () => print("the end\n"))->on('workerStart', fn () => null);
$pool->start();`), 0, []string{"start() has been called before", "exit command failed"}},
		"not frames":   {"POOLINIT_DELIVER=lines POOLINIT_GIVE_UP=1 exec php " + listen("$pool->listen('unix://"+empty+"/s')->on('message', fn () => null);"), 1, []string{"--deliver lines; this needs frames"}},
		"no messages":  {"exec $POOLINIT --give-up 1 php " + port, 1, []string{"poolinit has no messages for this program"}},
		"not wanted":   {"exec $POOLINIT --give-up 1 --listen unix://" + empty + "/t php " + file, 1, []string{"which has no handler for them"}},
		"start throws": {"exec php " + listen("$pool->on('start', fn () => throw new Exception('not today'))->on('workerStart', fn () => null);"), 255, []string{"not today"}},
		"workerStart throws": {"POOLINIT_GIVE_UP=2 POOLINIT_RESTART_DELAY=1ms exec php " +
			listen("$pool->on('workerStart', fn () => throw new Exception('not today'))->on('workerStop', fn () => print('never'));"), 255, []string{"not today", "every worker failed too many times"}},
	} {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			p, code := harness.Run(t, withPoolinit(t, harness.Program{Args: []string{"sh", "-c", tt.command}}))
			said := p.Stderr.String() + p.Stdout.String() // where PHP's own errors go is php.ini's choice
			if code != tt.code || strings.Contains(said, "never") && label == "workerStart throws" && strings.Contains(p.Stdout.String(), "never") {
				t.Errorf("exit code %d, want %d\n%s", code, tt.code, said)
			}
			for _, text := range tt.says {
				if !strings.Contains(said, text) {
					t.Errorf("it does not say %q, but:\n%s", text, said)
				}
			}
		})
	}
}

func lookPath(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// badBinary is executable, and no program.
func badBinary(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "poolinit")
	harness.InstallScript(t, path, "\x7fELF\x00")
	return path
}

// The environment outranks the program: what it says of a flag, or of where to
// listen, counts.
func TestSDKPHPEnvironmentOutranks(t *testing.T) {
	needPHPModules(t, "pcntl", "posix")
	url := harness.UnixURL(t, phpAlways)
	p := harness.PoolOf(harness.Start(t, withPoolinit(t, harness.Program{Env: []string{"POOLINIT_LISTEN=" + url, "POOLINIT_WORKERS=3", "POOLINIT_LOG_LEVEL="},
		Args: []string{"php", phpFile(t, `
$pool = new Poolinit\Pool(1);
$pool->set(['log-level' => 'debug', 'restart' => null])->listen('tcp://256.0.0.1:1');
$pool->on('message', fn (Poolinit\Pool $pool, string $message): string => "$message of $pool->workers");
$pool->start();`)}})))
	p.ExpectLog("accepting messages", nil)
	c := newPHPClient(t, url)
	c.send("one")
	c.want("one of 3")
	p.Signal(syscall.SIGWINCH)
	p.ExpectLog("forwarding signal", func(r harness.Record) bool { return r.Level == "debug" }) // an empty variable is none
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}
