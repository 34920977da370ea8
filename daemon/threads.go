package daemon

import (
	"runtime"
	"sync"
)

// maxProcs is the most CPUs that poolinit itself uses. Garbage collection wants a
// thread for each, all at once, so a machine with 64 would need 64 spare ones.
const maxProcs = 8

// spareThreads is how many threads poolinit has more than it needs at rest, beside
// one for each CPU.
const spareThreads = 6

// reserveThreads makes threads in advance. The Go runtime keeps them, and takes one
// when it needs one. If it cannot get one (docker run --pids-limit or ulimit -u,
// while the workers use up the limit), it ends the process, and PID 1 must not end.
//
// For the same reason GOMAXPROCS is fixed: otherwise Go follows the cgroup's limit,
// and may come to need more threads than were made.
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
