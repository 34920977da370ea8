package ipc

import (
	"time"

	"github.com/poolinit/poolinit/reaper/ancillary"
)

// oldKernels is for the channels of all workers where the kernel cannot refuse
// files that they attach to replies.
var oldKernels = ancillary.NewCloser()

// oldKernelTime is how long Close may wait there for replies that cannot be read
// because closing such files takes long.
const oldKernelTime = time.Second
