package main

import (
	"fmt"
	"net"
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

// child plays "exit N", "die SIGNAL" (as a number), "deaf" or "holds SOCKET".
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
	case "holds": // sends itself a message, and keeps it
		signal.Ignore(syscall.SIGTERM)
		c, err := net.Dial("unix", arg)
		if err == nil {
			_, err = c.Write([]byte("\x00\x00\x00\x01x"))
		}
		if err == nil {
			_, err = os.NewFile(3, "messages").Read(make([]byte, 2))
		}
		fmt.Println("holds", err)
		time.Sleep(time.Minute)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("deaf")
		time.Sleep(time.Minute)
	}
	return 99
}
