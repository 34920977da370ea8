package pool

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// denyChild runs a program to which the kernel refuses a system call: the words are
// its number, the error's, and the program.
var denyChild = harness.Child("deny", func(words []string) int {
	number, err := strconv.Atoi(words[0])
	if err != nil {
		return harness.Failed(err)
	}
	errno, err := strconv.Atoi(words[1])
	if err != nil {
		return harness.Failed(err)
	}
	runtime.LockOSThread() // the filter is this thread's until exec
	if err := deny(uint32(number), uint32(errno)); err != nil {
		return harness.Failed(err)
	}
	return harness.Become(words[2:])
})

func deny(number, errno uint32) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the call's number is the first thing in seccomp_data
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: number, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// What poolinit does without a system call.
type without int

const (
	works  without = iota // as with it
	tells                 // it works, and the log has a line that names the call
	leaves                // it does not start: it names the call, and exits with 2
)

// denials are the system calls that poolinit makes, but for those without which no
// Go program starts.
var denials = []struct {
	call   string
	number uintptr
	want   without
	flags  []string // that need it
}{
	{"waitid", unix.SYS_WAITID, tells, nil},
	{"setpgid", unix.SYS_SETPGID, tells, nil},
	{"prctl", unix.SYS_PRCTL, tells, nil},
	{"readlink", unix.SYS_READLINKAT, tells, nil},
	{"wait4", unix.SYS_WAIT4, leaves, nil},
	{"pipe2", unix.SYS_PIPE2, leaves, nil},
	{"socket", unix.SYS_SOCKET, leaves, nil},
	{"bind", unix.SYS_BIND, leaves, nil},
	{"listen", unix.SYS_LISTEN, leaves, nil},
	{"accept4", unix.SYS_ACCEPT4, leaves, nil},
	{"setsockopt", unix.SYS_SETSOCKOPT, leaves, nil},
	{"getsockopt", unix.SYS_GETSOCKOPT, leaves, nil},
	{"socketpair", unix.SYS_SOCKETPAIR, leaves, nil},
	{"recvmsg", unix.SYS_RECVMSG, leaves, nil},
	{"memfd_create", unix.SYS_MEMFD_CREATE, works, nil},
	{"memfd_create", unix.SYS_MEMFD_CREATE, leaves, []string{"--deliver", "exec"}},
	{"setgroups", unix.SYS_SETGROUPS, works, nil},
	{"setgroups", unix.SYS_SETGROUPS, leaves, []string{"--user", "65534:65534"}},
	{"msgget", unix.SYS_MSGGET, works, nil},
	{"msgget", unix.SYS_MSGGET, leaves, []string{"--listen", "sysv://0x706f6f6c"}},
	{"msgrcv", unix.SYS_MSGRCV, leaves, []string{"--listen", "sysv://0x706f6f6c"}},
	{"flock", unix.SYS_FLOCK, leaves, []string{"--spool", "DIR"}},
	{"fsync", unix.SYS_FSYNC, leaves, []string{"--spool", "DIR"}},
	{"pidfd_open", unix.SYS_PIDFD_OPEN, works, nil},
	{"pidfd_send_signal", unix.SYS_PIDFD_SEND_SIGNAL, works, nil},
	{"clone3", unix.SYS_CLONE3, works, nil},
	{"close_range", unix.SYS_CLOSE_RANGE, works, nil},
	{"getpgid", unix.SYS_GETPGID, works, nil},
	{"getsid", unix.SYS_GETSID, works, nil},
	{"ioctl", unix.SYS_IOCTL, works, nil},
	{"prlimit64", unix.SYS_PRLIMIT64, works, nil},
	{"sched_getaffinity", unix.SYS_SCHED_GETAFFINITY, works, nil},
	{"statx", unix.SYS_STATX, works, nil},
	{"openat2", unix.SYS_OPENAT2, works, nil},
	{"faccessat", unix.SYS_FACCESSAT, works, nil},
	{"faccessat2", unix.SYS_FACCESSAT2, works, nil},
	{"getrusage", unix.SYS_GETRUSAGE, works, nil},
	{"capget", unix.SYS_CAPGET, works, nil},
	{"madvise", unix.SYS_MADVISE, works, nil},
	{"splice", unix.SYS_SPLICE, works, nil},
	{"sendfile", unix.SYS_SENDFILE, works, nil},
}

// Where the kernel or a seccomp profile refuses a system call, poolinit does without
// it, or says which one it needs and ends.
func TestRunWithoutASystemCall(t *testing.T) {
	harness.Need(t, "sh", "sleep")
	for _, d := range denials {
		for _, errno := range []syscall.Errno{unix.EPERM, unix.ENOSYS} {
			name := fmt.Sprint(d.call, " ", unix.ErrnoName(errno), " ", strings.Join(d.flags, " "))
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				addr := harness.FreePort(t)
				args := []string{harness.Binary(t), "--ready", "started", "--stop-timeout", "20s", "--listen", "tcp://" + addr + "?reply=always", "--deliver", "lines"}
				for _, f := range d.flags {
					if f == "DIR" {
						f = t.TempDir()
					}
					args = append(args, f)
				}
				// The worker leaves orphans behind.
				args = append(args, "--", "sh", "-c", `(sleep 0.01 & sleep 0.02 &); while read -r line <&3; do echo "$line" >&3; done`)
				p := harness.PoolOf(harness.Start(t, harness.Program{
					Args: append([]string{harness.Self(t), fmt.Sprint(d.number), fmt.Sprint(int(errno))}, args...), Child: denyChild,
				}))
				if d.want == leaves {
					if code := p.Wait(); code != 2 {
						t.Errorf("exit code %d, want 2", code)
					}
				} else {
					checkPool(t, p, addr)
				}
				if says := p.Stderr.String(); d.want != works && !strings.Contains(says, d.call) {
					t.Errorf("%s is not named:\n%s", d.call, says)
				} else if n := strings.Count(says, `"level":"warn"`); d.want == works && n > 0 {
					t.Errorf("%d warnings:\n%s", n, says)
				}
			})
		}
	}
}

// checkPool has a message handled, the worker replaced, what it left reaped, and
// stops the pool.
func checkPool(t *testing.T, p harness.Pool, addr string) {
	t.Helper()
	p.ExpectLog("accepting messages", nil)
	harness.Send(t, strings.NewReader("hello\n"), "--reply", "tcp://"+addr).Want(t, "hello\n", 0)
	p.Signal(syscall.SIGHUP)
	p.ExpectLog("reload done", nil)
	harness.Send(t, strings.NewReader("hello\n"), "--reply", "tcp://"+addr).Want(t, "hello\n", 0)
	testkit.Eventually(t, "all is reaped", func() (any, bool) {
		all := p.List()
		for _, q := range all {
			if q.State == 'Z' || q.Name == "sleep" {
				return all, false
			}
		}
		return all, true
	})
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	p.ExpectLog("stopped: handled 2, ", nil)
}
