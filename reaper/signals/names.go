package signals

import (
	"bytes" // not strings, nor fmt: they are initialised late, and this package would be after them
	"errors"
	"strconv"
	"syscall"
)

// names is Linux's table (signal(7)) for amd64 and arm64, without the SIG.
var names = [...]string{
	1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 5: "TRAP", 6: "ABRT", 7: "BUS", 8: "FPE",
	9: "KILL", 10: "USR1", 11: "SEGV", 12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 16: "STKFLT",
	17: "CHLD", 18: "CONT", 19: "STOP", 20: "TSTP", 21: "TTIN", 22: "TTOU", 23: "URG", 24: "XCPU",
	25: "XFSZ", 26: "VTALRM", 27: "PROF", 28: "WINCH", 29: "IO", 30: "PWR", 31: "SYS",
}

// Name returns the name of a signal, as kill -l has it, with SIG before it: SIGTERM,
// SIGRTMIN+3. A number that has no name is "signal 32".
func Name(sig syscall.Signal) string {
	switch {
	case sig > 0 && int(sig) < len(names):
		return "SIG" + names[sig]
	case sig == RTMIN:
		return "SIGRTMIN"
	case sig > RTMIN && sig <= RTMAX:
		return "SIGRTMIN+" + strconv.Itoa(int(sig-RTMIN))
	}
	return "signal " + strconv.Itoa(int(sig))
}

// Parse reads a signal as users write it: TERM, SIGTERM, sigterm, 15, RTMIN+3,
// RTMAX-1.
func Parse(s string) (syscall.Signal, error) {
	name := string(bytes.TrimPrefix(bytes.ToUpper([]byte(s)), []byte("SIG")))
	for n, known := range names {
		if known != "" && name == known {
			return syscall.Signal(n), nil
		}
	}
	n, err := number(name)
	if err != nil || n < 1 || n > int(RTMAX) {
		return 0, errors.New(strconv.Quote(s) + " is no signal: a name such as TERM, a number from 1 to 64, or RTMIN+3")
	}
	return syscall.Signal(n), nil
}

// number reads 15, RTMIN, RTMIN+3, RTMAX-2.
func number(name string) (int, error) {
	if len(name) < len("RTMIN") {
		return strconv.Atoi(name)
	}
	var (
		base int
		sign byte
	)
	switch name[:len("RTMIN")] {
	case "RTMIN":
		base, sign = int(RTMIN), '+'
	case "RTMAX":
		base, sign = int(RTMAX), '-'
	default:
		return strconv.Atoi(name)
	}
	offset := name[len("RTMIN"):]
	if offset == "" {
		return base, nil
	}
	n, err := strconv.Atoi(offset)
	if offset[0] != sign || base+n < int(RTMIN) {
		return 0, strconv.ErrRange
	}
	return base + n, err
}
