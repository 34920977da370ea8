// Worker-go is a worker that writes its own loop, in Go: poolinit keeps it
// alive, and it knows nothing of poolinit but what the environment says.
//
//	poolinit -n 4 --ready notify --output prefix -- worker-go
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	// Ask for the stop signal first: until then it would end the program.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)

	// Here a real worker would connect to its queue.
	tell("READY=1\nSTATUS=waiting for jobs")
	fmt.Printf("started: worker %s of %s, generation %s, pid %d\n", os.Getenv("POOLINIT_WORKER_ID"),
		os.Getenv("POOLINIT_WORKERS"), os.Getenv("POOLINIT_GENERATION"), os.Getpid())

	alive := watchdog()
	jobs := time.NewTicker(2 * time.Second) // stands for a queue
	for n := 1; ; n++ {
		select {
		case <-jobs.C:
			work(n)
		case <-alive:
			tell("WATCHDOG=1")
			n--
		case <-stop: // never in the middle of a job
			fmt.Printf("stopping after %d jobs\n", n-1)
			tell("STOPPING=1")
			return
		}
	}
}

// work is one job.
func work(n int) {
	time.Sleep(300 * time.Millisecond)
	fmt.Printf("job %d done\n", n)
}

// watchdog returns a channel that says when it is time for a WATCHDOG=1: twice
// as often as asked for. Without a watchdog (--watchdog 0s) it never does.
func watchdog() <-chan time.Time {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return nil
	}
	return time.NewTicker(time.Duration(usec) * time.Microsecond / 2).C
}

// tell is sd_notify(3): a datagram to the socket that NOTIFY_SOCKET names. A
// worker without a listener works too.
func tell(text string) {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprint(conn, text)
}
