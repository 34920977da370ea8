package main

import (
	"runtime"
	"sync"
)

// maxProcs is the most CPUs that poolinit itself uses. Garbage collection wants a
// thread for each, all at once, so a machine with 64 would need 64 spare ones.
const maxProcs = 8

// spareThreads is how many threads there are, beside one for each CPU, more than
// poolinit needs at rest.
const spareThreads = 6

// reserveThreads makes threads, which the Go runtime keeps and takes when it
// needs one. Where it needs one and can have none (docker run --pids-limit, ulimit
// -u, while workers take all there are) it ends the process, and PID 1 must not end.
//
// GOMAXPROCS is fixed for that: left to itself Go follows the cgroup's limit, and
// could come to want more threads than were made.
func reserveThreads() {
	procs := min(runtime.GOMAXPROCS(0), maxProcs)
	runtime.GOMAXPROCS(procs)
	spare := spareThreads + procs
	var all, made sync.WaitGroup
	made.Add(spare)
	for range spare {
		all.Go(func() {
			runtime.LockOSThread() // one that no other goroutine has
			defer runtime.UnlockOSThread()
			made.Done()
			made.Wait()
		})
	}
	all.Wait()
}
