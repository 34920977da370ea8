//go:build linux && (amd64 || arm64)

package spawn

// Works reports whether Start works on this machine.
const Works = true

// vfork makes a child that takes the steps, the last of which is execve, and returns
// when it has become another program or has ended: its PID, or a negative error
// number. A child whose step fails writes the failure to the pipe. Signals are
// blocked.
//
//go:noescape
func vfork(steps *step, n, pipe uintptr, report *failure) (pid uintptr)
