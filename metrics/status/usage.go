package status

import (
	"time"

	"github.com/poolinit/poolinit/reaper/proc"
)

// Usage is what a worker uses.
type Usage struct {
	RSS uint64        // bytes, of its process now
	CPU time.Duration // of all its processes so far
	// Gone means that the process ended just now, and its part of CPU is missing.
	Gone bool
}

// usageOf reads what a process uses. It runs for each worker at each scrape.
func usageOf(pid int) Usage {
	cpu, err := proc.CPU(pid)
	if err != nil {
		return Usage{Gone: true}
	}
	rss, err := proc.RSS(pid)
	if err != nil {
		return Usage{Gone: true}
	}
	return Usage{RSS: rss, CPU: cpu}
}
