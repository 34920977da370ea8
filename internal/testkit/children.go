package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// ChildVariable is the environment variable that makes a test binary play a child.
const ChildVariable = "TEST_CHILD"

// Children are the programs that a test binary plays, by name. Each gets the
// arguments of the command line, and returns the exit code.
type Children map[string]func(args []string) int

// Main is what a TestMain calls: it plays the child that ChildVariable names, or
// runs the tests. It returns the exit code.
func (c Children) Main(m *testing.M) int {
	if name := os.Getenv(ChildVariable); name != "" {
		return c.play(name)
	}
	return m.Run()
}

func (c Children) play(name string) int {
	child := c[name]
	if child == nil {
		fmt.Fprintf(os.Stderr, "the test binary plays no child %q\n", name)
		return 99
	}
	return child(os.Args[1:])
}

// ChildEnv is what the environment of a child has in addition. Without the second
// variable a child with the race detector takes a second to exit.
func ChildEnv(name string) []string {
	return []string{ChildVariable + "=" + name, "GORACE=atexit_sleep_ms=0"}
}

// Child returns a command that is the test binary as a child. Any user may run
// it, wherever the binary is.
func Child(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), ChildEnv(name)...)
	return cmd
}
