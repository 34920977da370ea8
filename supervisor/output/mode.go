// Package output carries what is printed: the log lines of poolinit itself (Sink) and the lines of its
// workers (Relay). Both keep one promise above all: whatever becomes of the place they print to (a reader
// that stands still, a closed pipe, a full disk), the process goes on, and what was lost is counted.
package output

import "fmt"

// Mode says what becomes of the workers' stdout and stderr. The zero value is Inherit.
type Mode uint8

// The modes, in the order in which help texts name them.
const (
	Inherit Mode = iota // workers write to poolinit's own descriptors 1 and 2
	Prefix              // "[worker 3] line"
	JSON                // one log record a line
)

// ParseMode is the inverse of String. Its error names the value and what is allowed.
func ParseMode(s string) (Mode, error) {
	for m := Inherit; m <= JSON; m++ {
		if s == m.String() {
			return m, nil
		}
	}
	return Inherit, fmt.Errorf("unknown output mode %q: want inherit, prefix or json", s)
}

// String is the mode as a user writes it.
func (m Mode) String() string {
	switch m {
	case Inherit:
		return "inherit"
	case Prefix:
		return "prefix"
	case JSON:
		return "json"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}
