//go:build linux && (amd64 || arm64)

package entry

// start is the entry point of the program, as tools/build.sh links it.
func start()

// record is the first handler of some signals.
func record()

// sigreturn is where the kernel lets record return to.
func sigreturn()
