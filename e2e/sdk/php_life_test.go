package sdk

import (
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// A silent channel is no broken one, whatever php.ini says of sockets.
func TestSDKPHPIdle(t *testing.T) {
	url := harness.UnixURL(t, phpAlways)
	p := phpPool(t, url, "usleep((int) $message); return 'slept';", "PHPRC="+iniFile(t, "default_socket_timeout=1"))
	c := newPHPClient(t, url)
	c.send("2500000") // the other worker is idle for as long
	c.want("slept")
	if p.Count("worker exited") > 0 {
		t.Error(p.Stderr.String())
	}
}

// iniFile is a php.ini, with what the extensions need.
func iniFile(t *testing.T, text string) string {
	t.Helper()
	path := t.TempDir() + "/php.ini"
	harness.InstallScript(t, path, text+"\n")
	return path
}

// Between messages a worker says that it does not hang; in a message it is the
// handler's part.
func TestSDKPHPWatchdog(t *testing.T) {
	t.Parallel()
	url := harness.UnixURL(t, phpAlways)
	p := phpPool(t, url, `
    for ($i = 0; $i < 50; $i++) {
        usleep(100_000);
        $message === 'alive' && $pool->alive();
    }
    return 'still here';`, "POOLINIT_WATCHDOG=3s", "POOLINIT_ATTEMPTS=1")
	c := newPHPClient(t, url)
	c.send("alive")
	c.want("still here")
	if p.Count("worker exited") > 0 {
		t.Error(p.Stderr.String())
	}
	c.send("hangs")
	if body, failed, err := harness.ReadFrame(c); err != nil || !failed || !strings.Contains(string(body), "given-up: ") {
		t.Errorf("%q, %v", body, err)
	}
	p.ExpectLog("worker missed its watchdog deadline, stopping it", nil)
}

// A worker is ready when workerStart has returned: a new version that cannot
// start ends the reload, and the old one serves on.
func TestSDKPHPReload(t *testing.T) {
	url := harness.UnixURL(t, phpAlways)
	needPHPModules(t, "pcntl", "posix")
	p := startPHP(t, phpFile(t, `
$pool = new Poolinit\Pool(2);
$pool->listen('`+url+`');
$pool->on('workerStart', function (Poolinit\Pool $pool, int $id): void {
    if ($pool->generation === 2) {
        throw new Exception('no such database');
    }
    $pool->status("serves\nas $id");
});
$pool->on('message', fn (Poolinit\Pool $pool, string $message): string => "$message of generation $pool->generation");
$pool->start();`))
	p.ExpectLog("accepting messages", nil)
	p.ExpectLog("worker status", func(r harness.Record) bool { return r.Status == "serves as 1" })
	c := newPHPClient(t, url)
	ask := func(want string) {
		t.Helper()
		c.send("reply")
		c.want("reply of generation " + want)
	}
	ask("1")
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("reload failed", nil)
	ask("1")
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("reload done", nil)
	ask("3")
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// A worker with a loop of its own says when it is ready; exit() ends it like any
// other end, and one that exits with 0 comes back at once.
func TestSDKPHPLoop(t *testing.T) {
	needPHPModules(t, "pcntl", "posix")
	p := startPHP(t, phpFile(t, `
$pool = new Poolinit\Pool(1);
$pool->set(['ready' => 'notify', 'restart-delay' => '1ms']);
$pool->on('workerStart', function (Poolinit\Pool $pool): void {
    $pool->ready();
    $pool->status('is ready');
    if (!file_exists($mark = __FILE__ . '.lived')) {
        touch($mark);
        exit(0);
    }
    if (pcntl_fork() === 0) {
        echo "child up\n";
        while (true) {
            sleep(100);
        }
    }
    while (true) {
        usleep(10000);
    }
});
$pool->on('workerStop', fn () => print("stopped\n"));
$pool->start();`))
	p.Stdout.Expect(t, "child up\n")
	p.Stdout.ExpectTimes(t, "stopped\n", 1)
	p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Why == "done" })
	p.ExpectLog("worker status", nil)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	p.Stdout.ExpectTimes(t, "stopped\n", 2) // and not that of the child
	expectClean(p)
}
