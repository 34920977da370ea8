//go:build !linux || !(amd64 || arm64)

package spawn

import "syscall"

// Works reports whether Start works on this machine.
const Works = false

func vfork(*step, uintptr, uintptr, *failure) uintptr {
	return ^uintptr(syscall.ENOSYS) + 1 // negative
}
