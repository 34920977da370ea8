//go:build linux && (amd64 || arm64)

package entry

// start is the entry point of the program, as tools/build.sh links it.
//
//lint:ignore U1000 assembly has it
func start()

// record is the first handler of some signals.
//
//lint:ignore U1000 assembly has it
func record()

// sigreturn is where the kernel lets record return to.
//
//lint:ignore U1000 assembly has it
func sigreturn()
