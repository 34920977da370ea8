package cgroup

import "testing"

func TestCPUs(t *testing.T) {
	const (
		above = "/sys/fs/cgroup/system.slice/cpu.max"
		own   = "/sys/fs/cgroup" + v2Scope + "/cpu.max"
		v1    = "/sys/fs/cgroup/cpu,cpuacct/"
	)
	v2 := "0::" + v2Scope + "\n"
	for name, tt := range map[string]struct {
		groups, mounts string
		files          map[string]string
		want           float64
	}{
		"limit":           {v2, v2Mounts, map[string]string{own: "250000 100000\n"}, 2.5},
		"limit above":     {v2, v2Mounts, map[string]string{own: "max 100000\n", above: "50000 100000\n"}, 0.5},
		"the least":       {v2, v2Mounts, map[string]string{own: "400000 100000\n", above: "300000 100000\n"}, 3},
		"none":            {v2, v2Mounts, map[string]string{own: "max 100000\n", above: "max 100000\n"}, 0},
		"nonsense":        {v2, v2Mounts, map[string]string{own: "0 0\n", above: "x\n"}, 0},
		"not known":       {v2, v2Mounts, nil, 0},
		"version 1":       {v1Groups, v1DockerMounts, map[string]string{v1 + "cpu.cfs_quota_us": "150000\n", v1 + "cpu.cfs_period_us": "100000\n"}, 1.5},
		"version 1, none": {v1Groups, v1DockerMounts, map[string]string{v1 + "cpu.cfs_quota_us": "-1\n", v1 + "cpu.cfs_period_us": "100000\n"}, 0},
		"no period":       {v1Groups, v1DockerMounts, map[string]string{v1 + "cpu.cfs_quota_us": "150000\n"}, 0},
		"no cgroup":       {"", "", nil, 0},
	} {
		if got := CPUs(machine(t, tt.groups, tt.mounts, tt.files)); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
