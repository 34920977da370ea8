package cgroup

import (
	"os"
	"path"
	"strconv"
	"strings"
)

// CPUs returns how many CPUs this process's cgroup may use on average: the least
// that it or a group above it allows, of version 1 or 2; 0: there is no limit, or
// none that can be seen from here. All paths are looked up below root, which is ""
// but in tests.
func CPUs(root string) (least float64) {
	for _, file := range quotas(root) {
		n := quota(root + file)
		if n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

// quota reads one limit, or returns 0. Version 2 has "QUOTA PERIOD" or "max PERIOD" in
// one file, version 1 QUOTA, or -1, and the period in another file.
func quota(file string) float64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if path.Base(file) != "cpu.max" {
		period, err := os.ReadFile(path.Join(path.Dir(file), "cpu.cfs_period_us"))
		if err != nil {
			return 0
		}
		fields = append(fields, strings.Fields(string(period))...)
	}
	if len(fields) != 2 {
		return 0
	}
	most, err1 := strconv.ParseUint(fields[0], 10, 63) // not a number: no limit
	period, err2 := strconv.ParseUint(fields[1], 10, 63)
	if err1 != nil || err2 != nil || most == 0 || period == 0 {
		return 0
	}
	return float64(most) / float64(period)
}
