package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit/strict"
)

const (
	v1Counter = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"
	v2Counter = "low 0\nhigh 12\nmax 3\noom 2\noom_kill 9\noom_group_kill 1\n"
	// What a memory.oom_control before Linux 4.13 has.
	oldCounter = "oom_kill_disable 0\nunder_oom 0\n"
)

const (
	v1Groups = `12:pids:/docker/4fd2
4:memory:/docker/4fd2
2:cpu,cpuacct:/docker/4fd2
1:name=systemd:/docker/4fd2
`
	v1HostMounts = `25 30 0:23 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
31 25 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
36 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:15 - cgroup cgroup rw,cpu,cpuacct
40 31 0:36 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:19 - cgroup cgroup rw,memory
`
	v1DockerMounts = `624 623 0:64 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755
627 624 0:32 /docker/4fd2 /sys/fs/cgroup/cpu,cpuacct ro,relatime master:15 - cgroup cgroup rw,cpu,cpuacct
631 624 0:36 /docker/4fd2 /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:19 - cgroup cgroup rw,memory
`
	hybridMounts = v1HostMounts + `32 31 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
`
	v2Mounts = `1184 1183 0:70 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
1190 1184 0:29 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot
`
	v2Scope     = "/system.slice/docker-4fd2.scope"
	memoryMount = "/sys/fs/cgroup/memory"
)

// machine makes a file system with these files and returns its root.
func machine(t *testing.T, groups, mounts string, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	write(t, root+"/proc/self/cgroup", groups)
	write(t, root+"/proc/self/mountinfo", mounts)
	for name, text := range files {
		write(t, root+name, text)
	}
	return root
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// findTest is a machine, and the counter that is this process's there.
type findTest struct {
	name, groups, mounts string
	files                map[string]string
	path                 string // "": none
	kills                uint64
}

// v1Tests are of machines that have the memory controller in version 1.
func v1Tests() []findTest {
	host := map[string]string{
		memoryMount + "/docker/4fd2/memory.oom_control": v1Counter,
		memoryMount + "/memory.oom_control":             v2Counter,
	}
	own := map[string]string{memoryMount + "/memory.oom_control": v1Counter}
	return []findTest{
		{"v1 on a host", v1Groups, v1HostMounts, host, memoryMount + "/docker/4fd2/memory.oom_control", 7},
		{"v1 in docker", v1Groups, v1DockerMounts, own, memoryMount + "/memory.oom_control", 7},
		{
			"v1 in docker, in a group of its own", strings.ReplaceAll(v1Groups, "4fd2", "4fd2/init.scope"), v1DockerMounts,
			map[string]string{memoryMount + "/init.scope/memory.oom_control": v1Counter},
			memoryMount + "/init.scope/memory.oom_control", 7,
		},
		{
			"v1 with a cgroup namespace", strings.ReplaceAll(v1Groups, "/docker/4fd2", "/"),
			strings.ReplaceAll(v1DockerMounts, "/docker/4fd2", "/"), own, memoryMount + "/memory.oom_control", 7,
		},
		{
			"v1, mounted from a container of a similar name", strings.ReplaceAll(v1Groups, "4fd2", "4fd2e"), v1DockerMounts, own,
			memoryMount + "/memory.oom_control", 7,
		},
		{
			"v1, a kernel that does not count", v1Groups, v1DockerMounts,
			map[string]string{memoryMount + "/memory.oom_control": oldCounter}, "", 0,
		},
		{
			"hybrid with memory in v1", v1Groups + "0::/docker/4fd2\n", hybridMounts, host,
			memoryMount + "/docker/4fd2/memory.oom_control", 7,
		},
	}
}

func v2Tests() []findTest {
	return []findTest{
		{
			"hybrid with memory in v2", "1:name=systemd:/docker/4fd2\n0::/docker/4fd2\n", hybridMounts,
			map[string]string{"/sys/fs/cgroup/unified/docker/4fd2/memory.events": v2Counter},
			"/sys/fs/cgroup/unified/docker/4fd2/memory.events", 9,
		},
		{
			"v2 with a cgroup namespace", "0::/\n", v2Mounts, map[string]string{"/sys/fs/cgroup/memory.events": v2Counter},
			"/sys/fs/cgroup/memory.events", 9,
		},
		{
			"v2 without one", "0::" + v2Scope + "\n", strings.Replace(v2Mounts, "0:29 /", "0:29 "+v2Scope, 1),
			map[string]string{"/sys/fs/cgroup/memory.events": v2Counter}, "/sys/fs/cgroup/memory.events", 9,
		},
		{
			"v2 on a host", "0::" + v2Scope + "\n", v2Mounts,
			map[string]string{"/sys/fs/cgroup" + v2Scope + "/memory.events": v2Counter},
			"/sys/fs/cgroup" + v2Scope + "/memory.events", 9,
		},
		{
			"v2, controller on further up", "0::" + v2Scope + "/a/b\n", v2Mounts,
			map[string]string{"/sys/fs/cgroup" + v2Scope + "/memory.events": v2Counter},
			"/sys/fs/cgroup" + v2Scope + "/memory.events", 9,
		},
		{
			"v2, a group outside the namespace", "0::/../other\n", v2Mounts,
			map[string]string{"/sys/fs/cgroup/memory.events": v2Counter, "/sys/fs/other/memory.events": v1Counter},
			"/sys/fs/cgroup/memory.events", 9,
		},
		{
			"a mount point with a space, a group with a colon", "0::/a:b\n", "31 23 0:28 / /my\\040cg rw - cgroup2 none rw\n",
			map[string]string{"/my cg/a:b/memory.events": v2Counter}, "/my cg/a:b/memory.events", 9,
		},
		{"v2 on a host's root", "0::/\n", v2Mounts, nil, "", 0},
		{"nothing mounted", v1Groups, "", nil, "", 0},
		{"no groups", "", v2Mounts, map[string]string{"/sys/fs/cgroup/memory.events": v2Counter}, "", 0},
		{"garbage", "\n:\n4:memory\n", "- - -\n1 2 3 4 5\n\\ - \\\n", nil, "", 0},
	}
}

func TestFind(t *testing.T) {
	for _, tt := range append(v1Tests(), v2Tests()...) {
		t.Run(tt.name, func(t *testing.T) {
			root := machine(t, tt.groups, tt.mounts, tt.files)
			m, err := Find(root)
			t.Cleanup(func() { m.Close() })
			if got := strings.TrimPrefix(m.Path(), root); got != tt.path || (tt.path == "") != errors.Is(err, ErrNone) {
				t.Fatalf("found %q, %v; want %q", got, err, tt.path)
			}
			if kills, _ := m.OOMKills(); kills != tt.kills {
				t.Errorf("%d kills, want %d", kills, tt.kills)
			}
		})
	}
}

func TestFindWithoutProc(t *testing.T) {
	m, err := Find(t.TempDir())
	if m != nil || !errors.Is(err, ErrNone) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, %v", m, err)
	}
}

func TestNilMemory(t *testing.T) {
	var m *Memory
	if _, err := m.OOMKills(); !errors.Is(err, ErrNone) || m.Path() != "" || m.Close() != nil {
		t.Errorf("OOMKills: %v", err)
	}
}

func TestMemoryAfterClose(t *testing.T) {
	m, err := Find(machine(t, "0::/\n", v2Mounts, map[string]string{"/sys/fs/cgroup/memory.events": v2Counter}))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
	if n, err := m.OOMKills(); err == nil {
		t.Errorf("a closed file says %d", n)
	}
}

func TestOOMKillsOfText(t *testing.T) {
	tests := []struct {
		text  string
		kills uint64
		ok    bool
	}{
		{v1Counter, 7, true},
		{v2Counter, 9, true},
		{"oom_kill 18446744073709551615", 1<<64 - 1, true},
		{oldCounter, 0, false},
		{"oom_kill \n", 0, false},
		{"oom_kill -1\n", 0, false},
		{"oom_group_kill 3\nmy_oom_kill 4\n", 0, false},
		{"", 0, false},
	}
	for _, tt := range tests {
		if kills, ok := oomKills([]byte(tt.text)); kills != tt.kills || ok != tt.ok {
			t.Errorf("%q: %d, %v", tt.text, kills, ok)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "/a": "/a", `/a\040b`: "/a b", `\011\134`: "\t\\", `\0`: `\0`, `\999`: `\999`, `a\04`: `a\04`,
	} {
		if got := unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// This machine's own files, whatever they are.
func TestFindHere(t *testing.T) {
	m, err := Find("")
	if errors.Is(err, ErrNone) {
		strict.Skip(t, "this machine has no counter: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	kills, err := m.OOMKills()
	t.Logf("%s: %d", m.Path(), kills)
	if err != nil || !filepath.IsAbs(m.Path()) {
		t.Errorf("%q, %v", m.Path(), err)
	}
}

func BenchmarkFind(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		m, _ := Find("")
		_ = m.Close()
	}
}

func BenchmarkOOMKills(b *testing.B) {
	m, err := Find("")
	if err != nil {
		strict.Skip(b, "%v", err)
	}
	defer m.Close()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = m.OOMKills()
	}
}

// The limit is the least of the group's and of those above it.
func TestLimit(t *testing.T) {
	const inner = memoryMount + "/docker/4fd2"
	for name, tt := range map[string]struct {
		groups, mounts string
		files          map[string]string
		want           uint64
	}{
		"version 1": {v1Groups, v1HostMounts, map[string]string{
			inner + "/memory.limit_in_bytes": "67108864\n", memoryMount + "/memory.limit_in_bytes": "9223372036854771712\n"}, 64 << 20},
		"version 1, in a container": {v1Groups, v1DockerMounts, map[string]string{memoryMount + "/memory.limit_in_bytes": "1048576\n"}, 1 << 20},
		"version 1, none":           {v1Groups, v1HostMounts, map[string]string{inner + "/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"version 1, above":          {v1Groups, v1HostMounts, map[string]string{inner + "/memory.limit_in_bytes": "3\n", memoryMount + "/docker/memory.limit_in_bytes": "2\n"}, 2},
		"version 2": {"0::" + v2Scope + "\n", v2Mounts, map[string]string{
			"/sys/fs/cgroup" + v2Scope + "/memory.max": "max\n", "/sys/fs/cgroup/system.slice/memory.max": "536870912\n"}, 512 << 20},
		"version 2, none": {"0::" + v2Scope + "\n", v2Mounts, map[string]string{"/sys/fs/cgroup" + v2Scope + "/memory.max": "max\n"}, 0},
		"nonsense":        {"0::" + v2Scope + "\n", v2Mounts, map[string]string{"/sys/fs/cgroup" + v2Scope + "/memory.max": "-1\n"}, 0},
		"no file":         {"0::" + v2Scope + "\n", v2Mounts, nil, 0},
	} {
		if got := Limit(machine(t, tt.groups, tt.mounts, tt.files)); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	if got := Limit(t.TempDir()); got != 0 {
		t.Errorf("without cgroups: %d", got)
	}
}

func TestKillsGroup(t *testing.T) {
	const above = "/sys/fs/cgroup/system.slice/memory.oom.group"
	const own = "/sys/fs/cgroup" + v2Scope + "/memory.oom.group"
	for name, tt := range map[string]struct {
		groups, mounts string
		files          map[string]string
		want           bool
	}{
		"set":       {"0::" + v2Scope + "\n", v2Mounts, map[string]string{own: "1\n"}, true},
		"set above": {"0::" + v2Scope + "\n", v2Mounts, map[string]string{own: "0\n", above: "1\n"}, true},
		"not set":   {"0::" + v2Scope + "\n", v2Mounts, map[string]string{own: "0\n", above: "0\n"}, false},
		"not known": {"0::" + v2Scope + "\n", v2Mounts, nil, false},
		"version 1": {v1Groups, v1DockerMounts, map[string]string{memoryMount + "/memory.oom_control": v1Counter}, false},
		"no cgroup": {"", "", nil, false},
	} {
		if got := KillsGroup(machine(t, tt.groups, tt.mounts, tt.files)); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
