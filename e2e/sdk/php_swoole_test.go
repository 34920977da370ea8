package sdk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// swooleFile writes a program for Swoole.
func swooleFile(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program.php")
	harness.InstallScript(t, path, "<?php\nuse Swoole\\Process\\Pool;\n"+body)
	return path
}

// startSwoole runs a program for Swoole.
func startSwoole(t *testing.T, body string, env ...string) harness.Pool {
	t.Helper()
	needPHPModules(t, "pcntl", "posix", "sysvmsg")
	prog := withPoolinit(t, harness.Program{Args: []string{"php", swoole(t), "-ddisplay_errors=stderr", "-dhtml_errors=0", swooleFile(t, body)}})
	prog.Env = append(prog.Env, env...)
	return harness.PoolOf(harness.Start(t, prog))
}

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "swoole")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// All writes are one reply, what the handler returns is none, and the
// connection is closed after it.
func TestSDKPHPSwooleSocket(t *testing.T) {
	dir := shortDir(t)
	p := startSwoole(t, fmt.Sprintf(`
$pool = new Pool(2, SWOOLE_IPC_SOCKET);
$pool->set(['max_package_size' => '1K', 'max_wait_time' => 7]);
$pool->on('workerstart', function (Pool $pool, int $workerId) {
    echo json_encode([$pool->write('too early'), $pool->workerId === $workerId, $pool->workerPid === getmypid(), $pool->master_pid,
        $pool->workerRunning, $pool->running, isset($pool->running), $pool->on('Message', fn () => null), $pool->listen('127.0.0.1', 1)]) . " ready\n";
});
$pool->on('MESSAGE', function (Pool $pool, string $message) {
    if ($message === 'fail') throw new Exception('on purpose');
    if ($message === 'nothing') return;
    if ($message === 'detach') { $pool->write('one, '); $pool->detach(); $pool->write('two'); echo "on my own\n"; return; }
    if ($message === 'stop') $pool->stop();
    if ($message === 'shutdown') $pool->shutdown() || exit(1);
    if ($pool->write('hello ') && !$pool->write('')) $pool->write("client!\n");
    return 'not this';
});
$pool->on('workerStop', function (Pool $pool, int $workerId) { if (!$pool->workerRunning) echo "stop $workerId\n"; });
$pool->listen('unix:%s/s', 0, 100);
$pool->start();`, dir))
	p.Stdout.ExpectTimes(t, "[false,true,true,1,true,true,true,false,false] ready\n", 2)
	both := p.Stdout.String() + p.Stderr.String()
	for _, warning := range []string{"process pool is started. unable to register event callback function", "process pool is started. unable to listen"} {
		if strings.Count(both, warning) < 2 {
			t.Errorf("no warning %q:\n%s", warning, both)
		}
	}
	url := "unix://" + dir + "/s"
	ask := func(body, want string) {
		t.Helper()
		c := newPHPClient(t, url)
		c.send(body)
		if want != "" {
			c.want(want)
		}
		if _, _, err := harness.ReadFrame(c); err == nil || err.Error() != "EOF" {
			t.Errorf("%s: %v, want the end", body, err)
		}
	}
	ask("hello", "hello client!\n")
	ask("", "hello client!\n")
	ask("nothing", "")
	ask("fail", "")
	ask(strings.Repeat("x", 1025), "")
	ask("detach", "one, ")
	p.Stdout.Expect(t, "on my own\n")
	p.Stdout.ExpectTimes(t, "ready\n", 3)
	ask("stop", "hello client!\n")
	p.Stdout.ExpectTimes(t, "ready\n", 4)
	ask("shutdown", "hello client!\n")
	p.ExpectExit(0)
	p.ExpectLog("stopping", func(r harness.Record) bool { return r.Why == "SIGTERM" })
	p.Stdout.ExpectTimes(t, "stop ", 4)
	if !strings.Contains(p.Stderr.String(), `"timeout":"7s"`) {
		t.Error("max_wait_time is not --stop-timeout")
	}
}

// What is in the manager in Swoole happens before and after the workers; start()
// returns in the end, and cannot be called again.
func TestSDKPHPSwooleManager(t *testing.T) {
	p := startSwoole(t, `
$pool = new Pool(1);
$pool->on('start', function (Pool $pool) { echo "start $pool->master_pid ", $pool->running ? 'running' : '', "\n"; });
$pool->on('workerStart', function (Pool $pool, int $workerId) { echo "worker of $pool->master_pid\n"; $pool->shutdown(); sleep(20); echo "slept\n"; });
$pool->on('workerStop', function (Pool $pool, int $workerId) { echo "worker stop\n"; });
$pool->on('shutdown', function (Pool $pool) { echo "shutdown $pool->master_pid ", $pool->running ? 'running' : 'over', "\n"; });
var_dump($pool->start());
echo "START 1\n";
set_exception_handler(fn (Throwable $e) => print($e->getMessage() . "\n"));
var_dump($pool->start());`)
	p.ExpectExit(0)
	want := "start 1 running\nworker of 1\nworker stop\nshutdown 1 over\nNULL\nSTART 1\nstart() has been called before: a program has one pool, and starts it once\n"
	if got := p.Stdout.String(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// What cannot be had is told once, with its place in the program, by the process
// that becomes poolinit: not by the workers, and not at the end.
func TestSDKPHPSwooleWarnings(t *testing.T) {
	p := startSwoole(t, `
ini_set('log_errors', '0'); // or it is said twice
$pool = new Pool(2);
$pool->set(['daemonize' => true, 'max_package_size' => -1]);
var_dump($pool->on('workerReady', 'strlen'));
$pool->on('workerStart', function (Pool $pool, int $workerId) { $pool->on('x', 'strlen'); echo "up\n"; sleep(60); });
$pool->on('shutdown', fn () => print("shutdown\n"));
$pool->start();`)
	p.Stdout.ExpectTimes(t, "up\n", 2)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	p.Stdout.Expect(t, "shutdown\n")
	for place, times := range map[string]int{
		`option "daemonize" is unknown without ext-swoole, and has no effect, called in %s on line 6`: 1,
		"max_package_size must be greater than or equal to 0, got -1, called in %s on line 6":         1,
		"unknown event type[workerReady], called in %s on line 7":                                     1,
		"unable to register event callback function, called in %s on line 8":                          2, // in each worker
	} {
		want := fmt.Sprintf(place, p.Cmd.Args[len(p.Cmd.Args)-1])
		if got := strings.Count(p.Stderr.String(), want); got != times {
			t.Errorf("%d times %q, want %d:\n%s", got, want, times, p.Stderr.String())
		}
	}
}

// A worker that looks whether it goes on is left to end by itself.
func TestSDKPHPSwooleRunning(t *testing.T) {
	p := startSwoole(t, `
$pool = new Pool(2);
$pool->on('workerStart', function (Pool $pool, int $workerId) {
    $said = false;
    while ($pool->workerRunning) { // who never asks does not care, and is ended in the middle
        $said = $said || print("up\n");
        usleep(10000);
    }
    echo "out of the loop\n";
});
$pool->on('workerStop', fn () => print("stopped\n"));
$pool->start();`)
	p.Stdout.ExpectTimes(t, "up\n", 2)
	p.Signal(syscall.SIGUSR2) // which ends neither
	p.Signal(syscall.SIGUSR1)
	p.Stdout.ExpectTimes(t, "up\n", 4)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	p.Stdout.ExpectTimes(t, "out of the loop\n", 4)
	p.Stdout.ExpectTimes(t, "stopped\n", 4)
	expectClean(p)
}

// Messages from worker to worker wait for one that is being replaced.
func TestSDKPHPSwooleUnixsock(t *testing.T) {
	dir := shortDir(t)
	p := startSwoole(t, `
$pool = new Pool(3, SWOOLE_IPC_UNIXSOCK);
$pool->set(['enable_message_bus' => true]);
$pool->on('workerStart', function (Pool $pool, int $workerId) {
    if ($workerId > 0) {
        echo "worker $workerId up\n";
        return;
    }
    while (($other = $pool->getProcess(1))->pid === null) usleep(10000);
    echo json_encode([$other->id, $other->pid !== getmypid(), $pool->getProcess()->pid === getmypid(), $pool->getProcess(0) === $pool->getProcess(),
        @$pool->getProcess(3), @$pool->sendMessage('hello', 3), @$pool->sendMessage('hello', -1)]) . "\n";
    $pid = $other->pid;
    Swoole\Process::kill($pid, SIGKILL);
    echo json_encode([$other->write(str_repeat('A', 70000)), $pool->sendMessage('', 1)]) . "\n";
    while (in_array($pool->getProcess(1)->pid, [null, $pid], true)) usleep(10000);
    for ($i = 0; $i < 100; $i++) $pool->sendMessage(str_repeat('x', $i * 10000), 2);
    $pool->sendMessage('to myself', 0);
    echo $pool->getProcess()->read() . "\n";
    $done = [$pool->getProcess()->read(), $pool->getProcess()->read()];
    sort($done);
    if ($done === ['one is done', 'two is done']) $pool->shutdown();
});
$pool->on('message', function (Pool $pool, string $data) {
    static $n = 0;
    $n++;
    if ($pool->workerId === 1) echo 'one has ' . strlen($data) . "\n";
    if ($pool->workerId === 1 && $n === 2) $pool->sendMessage('one is done', 0);
    if ($pool->workerId === 2 && $n === 100) $pool->sendMessage('two is done', 0);
});
$pool->on('workerStop', fn ($pool, $id) => print("stopped $id\n"));
$pool->start();`, "TMPDIR="+dir)
	p.ExpectExit(0)
	for _, text := range []string{"[1,true,true,true,false,false,false]\n", "[70000,true]\n", "one has 70000\n", "one has 0\n", "to myself\n", "stopped 0\n", "stopped 1\n", "stopped 2\n"} {
		p.Stdout.ExpectTimes(t, text, 1)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// A queue of the pool's own, of its workers' making, and one of theirs alone.
func TestSDKPHPSwooleQueues(t *testing.T) {
	p := startSwoole(t, `
$pool = new Pool(2, SWOOLE_IPC_MSGQUEUE);
$pool->on('workerStart', function (Pool $pool, int $workerId) {
    if ($workerId === 1) for ($i = 0; $i < 10; $i++) $pool->getProcess()->push("job $i") || exit(1);
});
$pool->on('message', function (Pool $pool, string $message) {
    echo "got $message\n";
    if ($message === 'job 9') {
        echo 'queue ' . $pool->getProcess()->msgQueueKey . "\n";
        $pool->shutdown();
    }
});
$pool->start();
echo "queue gone\n";`)
	p.ExpectExit(0)
	for n := range 10 {
		p.Stdout.ExpectTimes(t, fmt.Sprintf("got job %d\n", n), 1)
	}
	p.Stdout.ExpectTimes(t, "queue gone\n", 1)
	_, key, _ := strings.Cut(p.Stdout.String(), "queue ")
	var q harness.SysVQueue
	if _, err := fmt.Sscan(key, &q); err != nil || q.Depth() != -1 {
		t.Errorf("queue %d is left, %v", q, err)
	}

	key2 := harness.NewSysVQueue(t)
	p = startSwoole(t, fmt.Sprintf(`
$pool = new Pool(2, SWOOLE_IPC_MSGQUEUE, %d);
$pool->on('workerStart', function (Pool $pool, int $workerId) {
    if ($workerId === 0) {
        $pool->getProcess()->push('hello world') || exit(1);
        sleep(60);
    } else {
        echo $pool->getProcess()->pop() . "\n";
        $own = $pool->getProcess(1);
        $own->useQueue(0, 2 | Swoole\Process::IPC_NOWAIT);
        echo json_encode([$own->pop(), $own->push('mine'), $own->statQueue(), $own->pop(), $own->freeQueue()]) . "\n";
        $pool->shutdown();
        sleep(60);
    }
});
$pool->on('workerStop', fn ($pool, $id) => print("stopped $id\n"));
$pool->start();`, uint32(key2)))
	p.ExpectExit(0)
	p.Stdout.ExpectTimes(t, "hello world\n", 1)
	p.Stdout.ExpectTimes(t, `[false,true,{"queue_num":1},"mine",true]`+"\n", 1)
	p.Stdout.ExpectTimes(t, "stopped ", 2)
}

// What is not there says so, where Swoole would work or fail otherwise.
func TestSDKPHPSwooleAbsent(t *testing.T) {
	needPHPModules(t, "pcntl", "posix", "sysvmsg")
	for label, tt := range map[string]struct{ body, says string }{
		"coroutines":     {"new Pool(1, SWOOLE_IPC_UNIXSOCK, 0, true);", "coroutines need ext-swoole"},
		"coroutines set": {"(new Pool(1))->set(['enable_coroutine' => true]);", "coroutines need ext-swoole"},
		"process":        {"new Swoole\\Process(fn () => null);", "new Swoole\\Process needs ext-swoole"},
		"static":         {"Swoole\\Process::daemon();", "Swoole\\Process::daemon() needs ext-swoole"},
		"options":        {"(new Pool(1))->set(['log_level' => 1]); echo 'goes on';", `option "log_level" is unknown`},
		"bad size":       {"(new Pool(1))->set(['max_package_size' => -1]);", "max_package_size must be greater than or equal to 0, got -1"},
		"no workers":     {"new Pool(0);", "the parameter $worker_num must be greater than 0"},
		"event":          {"var_dump((new Pool(1))->on('Massage', fn () => null));", "unknown event type[Massage]"},
		"no messages":    {"(new Pool(1))->on('Message', fn () => null);", "cannot set `onMessage` event with ipc_type=0"},
		"no listen":      {"$pool = new Pool(1, SWOOLE_IPC_SOCKET); $pool->on('Message', fn () => null); var_dump($pool->start());", "must first listen to an tcp port"},
		"twice":          {"$pool = new Pool(1, SWOOLE_IPC_SOCKET); $pool->listen('::1', 1); $pool->listen('::1', 1);", "the process pool is already listening"},
		"wrong type":     {"(new Pool(1))->listen('127.0.0.1', 1);", "unsupported ipc type[0]"},
		"nothing to do":  {"(new Pool(1))->start();", "require 'onWorkerStart' or 'onMessage' callback"},
		"exit event":     {"$pool = new Pool(1); $pool->on('WorkerExit', fn () => null); $pool->start();", "cannot set `onWorkerExit` without enable_coroutine"},
		"not started":    {"(new Pool(1))->shutdown();", "The process pool is not started"},
		"no process":     {"var_dump((new Pool(1))->getProcess());", "bool(false)"},
		"not detached":   {"var_dump((new Pool(1))->detach());", "bool(false)"},
		"not sent":       {"var_dump((new Pool(1))->sendMessage('x', 0));", "process pool is not started"},
		"property":       {"(new Pool(1))->runnning;", "Undefined property"},
		"loaded twice":   {"require '" + sdkPHP(t, "Pool.php") + "'; require_once '" + sdkPHP(t, "swoole.php") + "'; echo 'fine';", ""},
	} {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			if tt.says == "" {
				tt.body, tt.says = strings.Replace(tt.body, "require '", "require_once '", 1), "fine"
			}
			p, _ := harness.Run(t, withPoolinit(t, harness.Program{Args: []string{"php", swoole(t), "-dhtml_errors=0", "-ddisplay_errors=1", swooleFile(t, tt.body)}}))
			if said := p.Stdout.String() + p.Stderr.String(); !strings.Contains(said, tt.says) {
				t.Errorf("it does not say %q, but:\n%s", tt.says, said)
			}
		})
	}
}
