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

// BlockedChild is a process that blocks every signal: what it was sent stays
// pending, where the test can read it, and nothing is lost in a handler.
var BlockedChild = Child("blocked", func([]string) int {
	return BecomeBlocked()
})

func BecomeBlocked() int {
	path, err := exec.LookPath("sleep")
	if err != nil {
		return Failed(err)
	}
	runtime.LockOSThread()
	for _, sig := range AllSignals {
		setDisposition(sig, false)
	}
	block(AllSignals...)
	return Failed(syscall.Exec(path, []string{"blocked", "1000000"}, nil))
}

// familyChild is one with a child of its own, in the same process group.
var familyChild = Child("family", func([]string) int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "E2E_CHILD="+BlockedChild)
	if err := cmd.Start(); err != nil {
		return Failed(err)
	}
	return BecomeBlocked()
})

// exitChild exits with its argument, abandonChild leaves a grandchild to init.
var exitChild = Child("exit", func(args []string) int {
	code, _ := strconv.Atoi(strings.Join(args, ""))
	return code
})

var abandonChild = Child("abandon", func([]string) int { return abandon() })

func abandon() int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "E2E_CHILD="+exitChild)
	if err := cmd.Start(); err != nil {
		return Failed(err)
	}
	return 0
}

// orphansChild makes so many orphans, and then waits to be killed.
var orphansChild = Child("orphans", func(args []string) int {
	n, _ := strconv.Atoi(args[0])
	for range n {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "E2E_CHILD="+abandonChild)
		if err := cmd.Run(); err != nil {
			return Failed(err)
		}
	}
	fmt.Println("done")
	return BecomeBlocked()
})

// keeperChild starts parentChild, and stays when that has died.
var keeperChild = Child("keeper", func(args []string) int {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "E2E_CHILD="+parentChild)
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	if err := cmd.Start(); err != nil {
		return Failed(err)
	}
	return BecomeBlocked()
})

// parentChild starts its arguments, and dies without a word when its stdin ends.
var parentChild = Child("parent", func(args []string) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "E2E_CHILD="+BlockedChild)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return Failed(err)
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
})

// lateChild becomes blockedChild; when its stdin ends, a child of its own makes
// an orphan. (That child stays a zombie: nobody waits for it but lateChild.)
var lateChild = Child("late", func([]string) int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "E2E_CHILD="+lateAbandonChild)
	cmd.Stdin = os.Stdin
	if err := cmd.Start(); err != nil {
		return Failed(err)
	}
	return BecomeBlocked()
})

var lateAbandonChild = Child("late-abandon", func(args []string) int {
	_, _ = os.Stdin.Read(make([]byte, 1))
	return abandon()
})
