package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is its own child: with TEST_CHILD it plays a worker.
func TestMain(m *testing.M) {
	if role := os.Getenv("TEST_CHILD"); role != "" {
		os.Exit(child(role))
	}
	os.Exit(runTests(m))
}

// buildDir is where tests build the binary.
var buildDir string

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "poolinit-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	return m.Run()
}

// child plays "exit N", "die SIGNAL" (as a number) or "deaf".
func child(role string) int {
	word, arg, _ := strings.Cut(role, " ")
	n, _ := strconv.Atoi(arg)
	switch word {
	case "exit":
		return n
	case "die":
		signal.Reset()
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		time.Sleep(time.Minute)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("deaf")
		time.Sleep(time.Minute)
	}
	return 99
}
