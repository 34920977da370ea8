package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
)

// A cage is the cgroup of a pool, of version 1 or 2. A controller that the machine does
// not have is absent: its trouble is left out.
type cage struct {
	v2                   bool
	memory, pids, frozen string // directories; "": there is no such controller
}

const cgroups = "/sys/fs/cgroup"

// newCage makes the cgroup. It has to be empty at the end of the round.
func newCage(t *testing.T) *cage {
	t.Helper()
	name := fmt.Sprintf("poolinit-chaos-%d", os.Getpid())
	c := new(cage)
	if _, err := os.Stat(cgroups + "/cgroup.controllers"); err == nil {
		c.v2 = true
		_ = write(cgroups+"/cgroup.subtree_control", "+memory +pids") // fails in a container: no controllers then
		dir := filepath.Join(cgroups, name)
		if os.Mkdir(dir, 0o755) == nil {
			c.frozen = dir
			c.memory, c.pids = onlyWith(dir, "memory.max"), onlyWith(dir, "pids.max")
		}
	} else {
		for controller, dir := range map[string]*string{"memory": &c.memory, "pids": &c.pids, "freezer": &c.frozen} {
			path := filepath.Join(cgroups, controller, name)
			if os.Mkdir(path, 0o755) == nil {
				*dir = path
			}
		}
	}
	if c.memory == "" || c.pids == "" || c.frozen == "" {
		t.Logf("this machine lets the test have no cgroups for everything: %+v", *c)
	}
	t.Cleanup(func() {
		for _, dir := range c.dirs() {
			testkit.Eventually(t, "the cgroup is removed", func() (any, bool) {
				err := os.Remove(dir)
				return err, err == nil || os.IsNotExist(err)
			})
		}
	})
	return c
}

func onlyWith(dir, file string) string {
	if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
		return ""
	}
	return dir
}

func (c *cage) dirs() (dirs []string) {
	for _, dir := range []string{c.memory, c.pids, c.frozen} {
		if dir != "" {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// freeze stops every process of the pool, as docker pause does.
func (c *cage) freeze(on bool) {
	file, value := "freezer.state", map[bool]string{true: "FROZEN", false: "THAWED"}[on]
	if c.v2 {
		file, value = "cgroup.freeze", map[bool]string{true: "1", false: "0"}[on]
	}
	_ = write(filepath.Join(c.frozen, file), value)
}

// squeeze leaves this many bytes of memory; release takes all limits away.
func (c *cage) squeeze(spare int) {
	used, limit := "memory.usage_in_bytes", "memory.limit_in_bytes"
	if c.v2 {
		used, limit = "memory.current", "memory.max"
	}
	text, _ := os.ReadFile(filepath.Join(c.memory, used))
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	_ = write(filepath.Join(c.memory, limit), strconv.Itoa(n+spare))
}

func (c *cage) release() {
	if c.memory != "" {
		if c.v2 {
			_ = write(filepath.Join(c.memory, "memory.max"), "max")
		} else {
			_ = write(filepath.Join(c.memory, "memory.limit_in_bytes"), "-1")
		}
	}
	if c.pids != "" {
		_ = write(filepath.Join(c.pids, "pids.max"), "max")
	}
	if c.frozen != "" {
		c.freeze(false)
	}
}

// limitPIDs leaves this many more processes and threads.
func (c *cage) limitPIDs(spare int) {
	text, _ := os.ReadFile(filepath.Join(c.pids, "pids.current"))
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	_ = write(filepath.Join(c.pids, "pids.max"), strconv.Itoa(n+spare))
}

func write(path, text string) error { return os.WriteFile(path, []byte(text), 0o644) }
