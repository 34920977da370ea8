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

// withFile writes another file beside the SDK's.
func (s scriptSDK) withFile(t testing.TB, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(s.dir(t), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// node stays where it cannot become poolinit: its signals are poolinit's, all but
// those of the script's own that are meant for the workers; and so is its end.
func TestSDKNodeSignals(t *testing.T) {
	t.Parallel()
	harness.Need(t, "node")
	p := nodeSDK.start(t)
	p.Signal(syscall.SIGHUP)
	p.ExpectLog("reload done", nil)
	p.awaitUps(4)
	p.stop(0)

	p = nodeSDK.start(t)
	child := p.WaitForProcess("poolinit", func(q harness.ProcInfo) bool { return q.Name == filepath.Base(harness.Binary(t)) })
	if child.PID != p.PID {
		if err := syscall.Kill(child.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if code := p.Wait(); code != 137 {
			t.Errorf("exit code %d", code)
		}
	}
}

// A module, which waits for start() and has a handler for SIGTERM, in a worker
// without messages.
const nodeModule = `
import { Pool, Client, Refuse, Failure } from './poolinit.js';
import poolinit from './poolinit.js';

if (poolinit.Pool !== Pool || !Client || !Refuse || !Failure) throw new Error('not the same');
process.on('SIGTERM', () => { console.log('ours'); process.exit(0); });
const pool = new Pool(2, { healthyAfter: '0s' });
pool.on('workerStart', async (id) => {
  console.log('up', id);
  setTimeout(() => {}, process.env.SHORT ? 10 : 1e9);
});
pool.on('workerStop', async (id) => {
  await null;
  console.log('down', id);
});
await pool.start();
console.log('never');
`

func TestSDKNodeModule(t *testing.T) {
	t.Parallel()
	harness.Need(t, "node")
	path := nodeSDK.withFile(t, "pool.mjs", nodeModule)
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{"node", path}, Env: []string{"POOLINIT=" + harness.Binary(t)}}))
	p.Stdout.ExpectTimes(t, "up ", 2)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	if got := p.Stdout.String(); strings.Count(got, "ours\n") != 2 || strings.Contains(got, "never") {
		t.Error(got)
	}

	// One that has nothing more to do ends, with workerStop.
	p = harness.PoolOf(harness.Start(t, harness.Program{Args: []string{"node", path}, Env: []string{"POOLINIT=" + harness.Binary(t), "SHORT=1", "POOLINIT_RESTART=never"}}))
	p.ExpectExit(0)
	if got := p.Stdout.String(); strings.Count(got, "down ") != 2 || strings.Contains(got, "ours") {
		t.Errorf("%s\n%s", got, p.Stderr.String())
	}
}

// Where Node has execve, the process becomes poolinit.
func TestSDKNodeExecve(t *testing.T) {
	harness.Need(t, "node")
	path := nodeSDK.withFile(t, "execve.js", `
process.execve = (file, args, env) => {
  process.stdout.write([file === args[0], env === process.env, ...args.slice(args.indexOf('--'))].join(' ') + '\n');
  process.exit(9);
};`)
	script := filepath.Join(nodeSDK.dir(t), "pool.js")
	p, code := harness.Run(t, harness.Program{Args: []string{"node", "--no-warnings", "-r", path, script, "a", "--"},
		Env: []string{"POOLINIT=" + harness.Binary(t), "POOL_URL=unix:///x"}})
	want := "start\ntrue true -- " + nodeSDK.interpreter(t) + " --no-warnings -r " + path + " " + script + " a --\n"
	if got := p.Stdout.String(); code != 9 || got != want {
		t.Errorf("exit code %d\n%s\nwant\n%s\n%s", code, got, want, p.Stderr.String())
	}
}

// With concurrency one worker has several messages in hand; the replies are in order.
func TestSDKNodeConcurrency(t *testing.T) {
	t.Parallel()
	harness.Need(t, "node")
	p := nodeSDK.start(t, "CONCURRENCY=4", "POOLINIT_WORKERS=1")
	c := p.client()
	file := filepath.Join(t.TempDir(), "go-on")
	wait := "wait " + file
	for i := range 2 {
		c.send(wait+fmt.Sprint(i), wait+fmt.Sprint(i), "quick", wait+fmt.Sprint(i), "async", "reject now", "refuse this", "none", "last")
		p.Stdout.ExpectTimes(t, "waiting\n", 3*(i+1))
		touch(t, file+fmt.Sprint(i))
		c.want(wait+fmt.Sprint(i), wait+fmt.Sprint(i), "quick", wait+fmt.Sprint(i), "async",
			"!given-up: after 3 attempts: error: RangeError: now", "!refused: this", "", "last")
	}
	if got := c.ask("write x"); !strings.Contains(got, "concurrency above 1") {
		t.Error(got)
	}
	p.stop(0)

	// More than it may have in hand.
	w := nodeSDK.worker(t, "CONCURRENCY=2")
	w.write(frames(wait+"2", "async", "quick", wait+"2", wait+"2"))
	w.Stdout.ExpectTimes(t, "waiting\n", 2)
	touch(t, file+"2")
	w.want(wait+"2", "async", "quick", wait+"2", wait+"2")
	w.end()
	w.wantEnd(0, "")
}

// Many messages of one client are on the way at once.
func TestSDKNodeClientParallel(t *testing.T) {
	t.Parallel()
	harness.Need(t, "node")
	hear := func(bodies ...string) oneConn { return func(c scriptClient) { c.want(bodies...) } }
	tell := func(frames string) oneConn {
		return func(c scriptClient) { _, _ = c.Write([]byte(frames)) } // the client notices
	}
	stopping := failure("stopping: not now")
	url := serve(t,
		both(hear("1", "2", "3", "4", "5"), tell(frames("one")), tell(stopping+failure("spooled: later")+stopping)),
		both(hear("2", "4", "5"), tell(frames("two", "four"))),
		both(hear("5"), tell(frames("five")), hear("EOF")),
	)
	if got := nodeSDK.clientSends(t, url, "1\n2\n3\n4\n5\n", "PARALLEL=1", "OPEN=1"); got != "one\nfailure spooled later\ntwo\nfour\nfive\n" {
		t.Error(got)
	}
	p := nodeSDK.start(t)
	if got := nodeSDK.clientSends(t, p.url, harness.Seq(3000), "PARALLEL=1"); got != harness.Seq(3000) {
		t.Errorf("%.300q", got)
	}
	p.stop(0)
}

// Ctrl-C comes to node and to poolinit, and is one request to stop, not two.
func TestSDKScriptTerminal(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		tty := harness.OpenPTY(t)
		script := filepath.Join(s.dir(t), "pool"+s.ext)
		p := harness.Start(t, harness.Program{Args: []string{s.needs, script}, TTY: tty, Env: []string{"POOLINIT=" + harness.Binary(t), "POOL_URL=" + harness.UnixURL(t, "")}})
		tty.Expect("up worker")
		tty.Expect("up worker")
		tty.Send("\x03")
		tty.Expect("down worker")
		tty.Expect("down worker")
		tty.Expect("shutdown ")
		if code := p.Wait(); code != 0 {
			t.Errorf("exit code %d\n%s", code, tty.Screen.String())
		}
	})
}
