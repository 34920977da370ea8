package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNone means that there is no memory controller, or none that counts OOM kills
// (before Linux 4.13).
var ErrNone = errors.New("no memory controller that counts OOM kills")

// counterSize is enough for memory.events and memory.oom_control, which have far
// fewer than 200 bytes.
const counterSize = 1024

// Memory is the memory controller of one cgroup. A nil *Memory stands for one that
// is absent: its OOMKills returns ErrNone. All methods may be called concurrently.
type Memory struct {
	path string

	mu  sync.Mutex // no read may use a descriptor that Close has freed
	fd  int        // -1: closed
	buf [counterSize]byte
}

// Find returns the memory controller of the cgroup that this process is in, of
// version 1 or 2, according to /proc/self/cgroup and /proc/self/mountinfo. The
// caller closes it. All paths are looked up below root, which is "" but in tests.
// An error wraps ErrNone and comes with a nil *Memory, which is safe to use.
//
// The Memory stays with that cgroup, even if this process is moved to another.
func Find(root string) (*Memory, error) {
	files, err := candidates(root)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: no cgroup is mounted", ErrNone)
	}
	for _, path := range files {
		if m, err := open(root + path); err == nil {
			return m, nil
		}
	}
	return nil, fmt.Errorf("%w: none of %q", ErrNone, files)
}

// open opens a counter file, if it has the count in it. It uses plain system calls:
// an os.File would be put into the netpoller, because these files can be polled,
// and would wake the program up at every event.
func open(path string) (*Memory, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	m := &Memory{path: path, fd: fd}
	if _, err := m.OOMKills(); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

// Limit returns how much memory this process's cgroup may use, in bytes: the least
// that it or a group above it allows, of version 1 or 2; 0: there is no limit, or
// none that can be seen from here. All paths are looked up below root, which is ""
// but in tests.
func Limit(root string) (least uint64) {
	for _, path := range limits(root) {
		text, err := os.ReadFile(root + path)
		if err != nil {
			continue
		}
		n, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64) // "max" in version 2
		if err == nil && n < noLimit && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

// noLimit is about what version 1 has where there is no limit.
const noLimit = 1 << 62

// Path is the file that is read, or "" if there is none.
func (m *Memory) Path() string {
	if m == nil {
		return ""
	}
	return m.path
}

// OOMKills returns how many processes of the cgroup the OOM killer has killed since
// the cgroup was made. The kernel counts before it kills: once a victim is seen to
// be dead, the count includes it.
//
// Version 2 also counts the victims in cgroups below; version 1 does not.
func (m *Memory) OOMKills() (uint64, error) {
	if m == nil {
		return 0, ErrNone
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := pread(m.fd, m.buf[:])
	if err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", m.path, err)
	}
	kills, ok := oomKills(m.buf[:n])
	if !ok {
		return 0, fmt.Errorf("%w: %s has no oom_kill", ErrNone, m.path)
	}
	return kills, nil
}

// Close closes the file. After that OOMKills fails.
func (m *Memory) Close() error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fd < 0 {
		return nil
	}
	fd := m.fd
	m.fd = -1
	return unix.Close(fd)
}

// pread reads from the beginning of the file. For each such read the kernel writes the
// current text.
func pread(fd int, buf []byte) (n int, err error) {
	for {
		n, err = unix.Pread(fd, buf, 0)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// oomKills finds the line "oom_kill N", among lines such as oom_kill_disable and
// oom_group_kill.
func oomKills(text []byte) (kills uint64, ok bool) {
	for line := range bytes.Lines(text) {
		number, found := bytes.CutPrefix(line, []byte("oom_kill "))
		if !found {
			continue
		}
		kills, err := strconv.ParseUint(string(bytes.TrimSpace(number)), 10, 64)
		return kills, err == nil
	}
	return 0, false
}

// KillsGroup reports whether the OOM killer kills every process of this process's
// cgroup at a time, and so this one too: memory.oom.group of version 2. All paths are
// looked up below root, which is "" but in tests.
func KillsGroup(root string) bool {
	for _, path := range oomGroups(root) {
		text, err := os.ReadFile(root + path)
		if err == nil && string(bytes.TrimSpace(text)) == "1" {
			return true
		}
	}
	return false
}
