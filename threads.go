package main

import (
	"runtime"
	"sync"
)

// spareThreads is how many threads there are more than poolinit needs at rest.
const spareThreads = 8

// reserveThreads makes threads, which the Go runtime keeps and takes when it
// needs one. Where it needs one and can have none (docker run --pids-limit, ulimit
// -u, while workers take all there are) it ends the process, and PID 1 must not end.
func reserveThreads() {
	var all, made sync.WaitGroup
	made.Add(spareThreads)
	for range spareThreads {
		all.Go(func() {
			runtime.LockOSThread() // one that no other goroutine has
			defer runtime.UnlockOSThread()
			made.Done()
			made.Wait()
		})
	}
	all.Wait()
}
