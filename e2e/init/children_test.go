package init_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/poolinit/poolinit/e2e/harness"
)

// familyChild is one with a child of its own, in the same process group.
var familyChild = harness.Child("family", func([]string) int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "TEST_CHILD="+harness.BlockedChild)
	if err := cmd.Start(); err != nil {
		return harness.Failed(err)
	}
	return harness.BecomeBlocked()
})

// exitChild exits with its argument, abandonChild leaves a grandchild to init.
var exitChild = harness.Child("exit", func(args []string) int {
	code, _ := strconv.Atoi(strings.Join(args, ""))
	return code
})

var abandonChild = harness.Child("abandon", func([]string) int { return abandon() })

func abandon() int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "TEST_CHILD="+exitChild)
	if err := cmd.Start(); err != nil {
		return harness.Failed(err)
	}
	return 0
}

// orphansChild makes so many orphans, and then waits to be killed.
var orphansChild = harness.Child("orphans", func(args []string) int {
	n, _ := strconv.Atoi(args[0])
	for range n {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "TEST_CHILD="+abandonChild)
		if err := cmd.Run(); err != nil {
			return harness.Failed(err)
		}
	}
	fmt.Println("done")
	return harness.BecomeBlocked()
})

// keeperChild starts parentChild, and stays when that has died.
var keeperChild = harness.Child("keeper", func(args []string) int {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "TEST_CHILD="+parentChild)
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	if err := cmd.Start(); err != nil {
		return harness.Failed(err)
	}
	return harness.BecomeBlocked()
})

// parentChild starts its arguments, and dies without a word when its stdin ends.
var parentChild = harness.Child("parent", func(args []string) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "TEST_CHILD="+harness.BlockedChild)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return harness.Failed(err)
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
})

// lateChild becomes blockedChild; when its stdin ends, a child of its own makes
// an orphan. (That child stays a zombie: nobody waits for it but lateChild.)
var lateChild = harness.Child("late", func([]string) int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "TEST_CHILD="+lateAbandonChild)
	cmd.Stdin = os.Stdin
	if err := cmd.Start(); err != nil {
		return harness.Failed(err)
	}
	return harness.BecomeBlocked()
})

var lateAbandonChild = harness.Child("late-abandon", func(args []string) int {
	_, _ = os.Stdin.Read(make([]byte, 1))
	return abandon()
})
