// Package vm has the tests of the real binary on another kernel: in a machine that
// qemu emulates, with Debian's stable kernel.
//
// That kernel is older than the one of most machines that run tests, has cgroups of
// version 2 with all controllers, and may be broken: its clock can be set, its
// memory, processes and descriptors can be used up, and its disks can hang.
//
// One boot serves all tests. Test builds this package once more, as a static
// binary, and boots it as the machine's init. That mounts what a machine has and
// becomes `poolinit run`, whose worker is this binary again: it runs the checks, with
// e2e/harness as everywhere. Its results come back over a serial line, and each
// becomes a subtest. go test -run Test/FrozenDisk runs one of them.
//
// The kernel is in bin/vm, where tools/vm-kernel.sh puts it.
package vm

import (
	"fmt"
	"os"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

func TestMain(m *testing.M) {
	if os.Getpid() == 1 && os.Getenv(insideVariable) == "" {
		fmt.Fprintln(os.Stderr, "cannot start the machine:", becomeInit())
	}
	os.Exit(harness.Main(m))
}

// Test runs the checks, each in its turn. Outside it boots the machine; inside it is
// what the machine runs.
func Test(t *testing.T) {
	if os.Getenv(insideVariable) == "" {
		t.Parallel()
		boot(t)
		return
	}
	for _, c := range checks {
		t.Run(c.name, c.run)
	}
}

// A check runs inside of the machine. Its name has no spaces.
type check struct {
	name string
	run  func(*testing.T)
}

// checks are in the order in which they run: those that may harm the machine for the
// ones that follow come last.
var checks = []check{
	{"InitOfTheMachine", testInit},
	{"CgroupLimits", testLimits},
	{"OOMKillIsToldApart", testOOM},
	{"OOMKillOfTheGroup", testOOMGroup},
	{"ClockIsSet", testClock},
	{"FullDisk", testFullDisk},
	{"FrozenDisk", testFrozenDisk},
	{"FilesOfStrangers", testStrangers},
	{"OOMKillOfTheMachine", testMachineOOM},
	{"OOMKillSparesTheQueue", testOOMSparesQueue},
	{"NoDescriptors", testNoDescriptors},
	{"NoPIDs", testNoPIDs},
}
