package cgroup

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A version holds the differences between the two generations of cgroups.
type version struct {
	fstype string // of its mounts
	option string // in the options of the mount, where every controller has its own mount
	file   string // that is looked for
}

// mount is the part of a line of mountinfo that is needed here.
type mount struct {
	root    string // the part of the hierarchy that is mounted
	point   string
	fstype  string
	options []string
}

// candidates lists the files that may have the count of this process's cgroup, the
// most likely first: version 1 if /proc/self/cgroup names its memory controller,
// then version 2.
func candidates(root string) (files []string, err error) {
	return find(root, "memory.oom_control", "memory.events")
}

// limits lists the files with the limit of this process's cgroup and of those above.
func limits(root string) []string {
	files, _ := find(root, "memory.limit_in_bytes", "memory.max") // no cgroups: no limit
	return files
}

// quotas lists the files with the CPU limits of this process's cgroup and of those
// above: in version 1 the quota, beside which the period is.
func quotas(root string) (files []string) {
	groups, _ := os.ReadFile(root + "/proc/self/cgroup")
	text, _ := os.ReadFile(root + "/proc/self/mountinfo")
	mounts := parseMounts(string(text))
	v1, v2 := ownGroups(string(groups), "cpu")
	files = inGroups(mounts, v1, version{"cgroup", "cpu", "cpu.cfs_quota_us"})
	return append(files, inGroups(mounts, v2, version{"cgroup2", "", "cpu.max"})...)
}

// oomGroups lists the files that say whether this process's cgroup, and those above,
// are killed as a whole. Version 1 has none.
func oomGroups(root string) (files []string) {
	all, _ := find(root, "", "memory.oom.group")
	for _, file := range all {
		if path.Base(file) == "memory.oom.group" {
			files = append(files, file)
		}
	}
	return files
}

// find lists the files of these names, in version 1 and 2, in this process's cgroup
// and those above.
func find(root, file1, file2 string) (files []string, err error) {
	groups, err := os.ReadFile(root + "/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(root + "/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	mounts := parseMounts(string(text))
	v1, v2 := ownGroups(string(groups), "memory")
	files = inGroups(mounts, v1, version{"cgroup", "memory", file1})
	return append(files, inGroups(mounts, v2, version{"cgroup2", "", file2})...), nil
}

// ownGroups returns the cgroups of /proc/self/cgroup that can have a controller:
// "4:memory:/path" in version 1, "0::/path" in version 2. A cgroup that is absent
// is "".
func ownGroups(text, controller string) (v1, v2 string) {
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3) // a path may have colons
		switch {
		case len(fields) < 3:
		case fields[0] == "0" && fields[1] == "":
			v2 = fields[2]
		case slices.Contains(strings.Split(fields[1], ","), controller):
			v1 = fields[2]
		}
	}
	return v1, v2
}

// inGroups lists, for each mount of the version, the files from the group's
// directory up to the mount point. Version 2 has no memory.events in a group whose
// controller is off: its processes count for the next group above.
func inGroups(mounts []mount, group string, v version) (files []string) {
	if group == "" {
		return nil
	}
	for _, m := range mounts {
		if !m.has(v) {
			continue
		}
		for dir := m.below(group); ; dir = path.Dir(dir) {
			files = append(files, path.Join(m.point, dir, v.file))
			if dir == "/" {
				break
			}
		}
	}
	return files
}

func (m mount) has(v version) bool {
	return m.fstype == v.fstype && (v.option == "" || slices.Contains(m.options, v.option))
}

// below returns the group's path under the mount point. Without a cgroup namespace
// a container sees the host's path in both files, and only the rest of it is
// mounted: /docker/ID/x, mounted from /docker/ID, is /x. A group that is not below
// the root of the mount ("/../x" is one outside of the namespace) has no path here.
// Then the mount point itself is the best guess, because it is the group that was
// mounted for this container.
func (m mount) below(group string) string {
	rest, ok := strings.CutPrefix(group, strings.TrimSuffix(m.root, "/"))
	if !ok || rest != "" && rest[0] != '/' || strings.Contains(group+"/", "/../") {
		return "/"
	}
	return path.Join("/", rest)
}

// parseMounts reads the lines of mountinfo that are about cgroups. A host has
// hundreds of others.
func parseMounts(text string) (mounts []mount) {
	for line := range strings.Lines(text) {
		place, kind, _ := strings.Cut(line, " - ")
		if !strings.HasPrefix(kind, "cgroup") {
			continue
		}
		if m, ok := parseMount(strings.Fields(place), strings.Fields(kind)); ok {
			mounts = append(mounts, m)
		}
	}
	return mounts
}

// parseMount makes a mount of the fields before and after the single hyphen, as
// proc(5) describes them:
//
//	31 23 0:28 ROOT POINT rw,relatime [optional fields ...] - FSTYPE source OPTIONS
func parseMount(place, kind []string) (m mount, ok bool) {
	if len(place) < 6 || len(kind) < 3 {
		return m, false
	}
	m.root, m.point = unescape(place[3]), unescape(place[4])
	m.fstype, m.options = kind[0], strings.Split(kind[2], ",")
	return m, true
}

// unescape replaces the octal escapes of mountinfo, such as \040 for a space.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
