// Testworker is the worker of the tests in a cluster. It answers a message with the
// name of its pod, a space and the message, after doing what the message's first
// words say:
//
//	sleep TIME     takes so long
//	eat MIB        uses so much memory, and keeps it
//	orphan         leaves a process behind whose parent is gone
//
// Run with the argument broken it ends at once, as a bad version of a program does.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/worker"
)

func main() {
	switch strings.Join(os.Args[1:], " ") {
	case "broken":
		fmt.Println("this version cannot work")
		os.Exit(3)
	case "parent":
		if _, err := start("child"); err != nil {
			log.Fatal(err)
		}
		return
	case "child":
		time.Sleep(200 * time.Millisecond) // its parent is gone by then
		return
	}
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Run(context.Background(), worker.Handlers{
		Message: func(_ context.Context, m *worker.Message) ([]byte, error) {
			if err := obey(strings.Fields(string(m.Body))); err != nil {
				return nil, err
			}
			return bytes.Join([][]byte{[]byte(host), m.Body}, []byte(" ")), nil
		},
	}); err != nil {
		log.Fatal(err)
	}
}

var eaten [][]byte

func obey(words []string) error {
	if len(words) == 0 {
		return worker.Refuse("there is nothing in it")
	}
	switch {
	case words[0] == "orphan":
		return orphan()
	case len(words) < 2:
		return nil
	case words[0] == "sleep":
		d, err := time.ParseDuration(words[1])
		time.Sleep(d)
		return err
	case words[0] == "eat":
		mib, err := strconv.Atoi(words[1])
		for range mib {
			eaten = append(eaten, bytes.Repeat([]byte{1}, 1<<20))
		}
		return err
	}
	return nil
}

// orphan starts a process that starts another and ends.
func orphan() error {
	pid, err := start("parent")
	if err != nil {
		return err
	}
	var status syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(pid, &status, 0, nil); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func start(role string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	return syscall.ForkExec(self, []string{self, role}, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
}
