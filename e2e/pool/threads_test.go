package pool

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// A pidsGroup is a cgroup of its own with a limit of processes and threads.
type pidsGroup struct {
	t   testing.TB
	dir string
}

// newPidsGroup makes one, where the test may do so.
func newPidsGroup(t testing.TB) *pidsGroup {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} { // version 1 and 2
		dir, err := os.MkdirTemp(root, "poolinit-e2e-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { // registered before the program's, so it runs when that has ended
			testkit.Eventually(t, "the cgroup is empty", func() (any, bool) { err := os.Remove(dir); return err, err == nil })
		})
		if _, err := os.Stat(filepath.Join(dir, "pids.max")); err == nil {
			return &pidsGroup{t, dir}
		}
	}
	strict.Skip(t, "no cgroup with a limit of processes can be made in /sys/fs/cgroup")
	return nil
}

func (g *pidsGroup) write(file, value string) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0); err != nil {
		g.t.Fatal(err)
	}
}

func (g *pidsGroup) current() string {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, "pids.current"))
	if err != nil {
		g.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// Where there is room for no thread more, what poolinit does goes on: it has them
// already, however many CPUs there are. (The Go runtime ends a process that cannot
// have the thread it wants; it wants one for each CPU when it collects garbage.)
func TestRunHasItsThreads(t *testing.T) {
	t.Parallel()
	for _, cpus := range []int{2, 8, 64} {
		t.Run(fmt.Sprint(cpus), func(t *testing.T) {
			group := newPidsGroup(t)
			p := harness.StartRun(t, harness.Program{Env: []string{fmt.Sprintf("GOMAXPROCS=%d", cpus)}},
				"-n", "auto", "--http", "127.0.0.1:0", "--restart-delay", "1ms", "--restart-delay-max", "100ms", "--give-up", "0", "--", "obey")
			p.ExpectLog("--workers auto: using GOMAXPROCS", nil)
			base := harness.HTTPAddress(p.Process)
			p.AwaitWorkers(cpus)
			for _, q := range p.List() {
				group.write("cgroup.procs", strconv.Itoa(q.PID))
			}
			group.write("pids.max", group.current())
			for range 150 { // it makes garbage
				if code, _ := harness.Page(t, base+"/metrics"); code != 200 {
					t.Fatalf("metrics: %d", code)
				}
			}
			if now := group.current(); now == "0" || p.Count("starting poolinit") != 1 {
				t.Errorf("%s processes\n%s", now, p.Stderr.String())
			}
		})
	}
}
