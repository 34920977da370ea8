package reaper

import (
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"
)

// machines are the names, as uname -m has them, of what ELF calls e_machine.
var machines = map[uint16]string{
	3: "i686", 8: "mips", 20: "ppc", 21: "ppc64le", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 258: "loongarch64",
}

// machineHere is e_machine of this program.
var machineHere = map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH]

// foreign says what machine a program is for, if that is another one than this, and
// otherwise returns "". The kernel calls such a program no executable at all; a shell
// would take it for a script.
func foreign(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may be a FIFO
	if err != nil {
		return "" // a file may be executable without being readable
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return ""
	}
	// Of the ELF header: magic, at 5 the byte order (2 is big-endian), at 18 e_machine.
	var head [20]byte
	if _, err := io.ReadFull(f, head[:]); err != nil || string(head[:4]) != "\x7fELF" {
		return ""
	}
	low, high := head[18], head[19]
	if head[5] == 2 {
		low, high = high, low
	}
	machine := uint16(high)<<8 | uint16(low)
	if machine == machineHere {
		return ""
	}
	name := machines[machine]
	if name == "" {
		name = "ELF machine " + strconv.Itoa(int(machine))
	}
	return "built for " + name + ", this machine is " + machines[machineHere]
}
