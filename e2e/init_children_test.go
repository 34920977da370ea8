package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// blockedChild is a process that blocks every signal: what it was sent stays
// pending, where the test can read it, and nothing is lost in a handler.
var blockedChild = child("blocked", func([]string) int {
	return becomeBlocked()
})

func becomeBlocked() int {
	path, err := exec.LookPath("sleep")
	if err != nil {
		return stubFailed(err)
	}
	runtime.LockOSThread()
	for _, sig := range signal1to64 {
		setDisposition(sig, false)
	}
	block(signal1to64...)
	return stubFailed(syscall.Exec(path, []string{"blocked", "1000000"}, nil))
}

// familyChild is one with a child of its own, in the same process group.
var familyChild = child("family", func([]string) int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "E2E_CHILD="+blockedChild)
	if err := cmd.Start(); err != nil {
		return stubFailed(err)
	}
	return becomeBlocked()
})

// exitChild exits with its argument, abandonChild leaves a grandchild to init.
var exitChild = child("exit", func(args []string) int {
	code, _ := strconv.Atoi(strings.Join(args, ""))
	return code
})

var abandonChild = child("abandon", func([]string) int { return abandon() })

func abandon() int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "E2E_CHILD="+exitChild)
	if err := cmd.Start(); err != nil {
		return stubFailed(err)
	}
	return 0
}

// orphansChild makes so many orphans, and then waits to be killed.
var orphansChild = child("orphans", func(args []string) int {
	n, _ := strconv.Atoi(args[0])
	for range n {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "E2E_CHILD="+abandonChild)
		if err := cmd.Run(); err != nil {
			return stubFailed(err)
		}
	}
	fmt.Println("done")
	return becomeBlocked()
})

// keeperChild starts parentChild, and stays when that has died.
var keeperChild = child("keeper", func(args []string) int {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "E2E_CHILD="+parentChild)
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	if err := cmd.Start(); err != nil {
		return stubFailed(err)
	}
	return becomeBlocked()
})

// parentChild starts its arguments, and dies without a word when its stdin ends.
var parentChild = child("parent", func(args []string) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "E2E_CHILD="+blockedChild)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return stubFailed(err)
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
})

// lateChild becomes blockedChild; when its stdin ends, a child of its own makes
// an orphan. (That child stays a zombie: nobody waits for it but lateChild.)
var lateChild = child("late", func([]string) int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "E2E_CHILD="+lateAbandonChild)
	cmd.Stdin = os.Stdin
	if err := cmd.Start(); err != nil {
		return stubFailed(err)
	}
	return becomeBlocked()
})

var lateAbandonChild = child("late-abandon", func(args []string) int {
	_, _ = os.Stdin.Read(make([]byte, 1))
	return abandon()
})
