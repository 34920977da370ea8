// Package terminal is for output that may go to a terminal: it tells whether it
// does, and it takes out of a text from outside what a terminal would act on.
package terminal

import (
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// Is reports whether a descriptor is a terminal.
func Is(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// Printable returns a text of one line that has nothing in it but printable
// characters. A worker, a client or a server wrote the text: it must not move the
// cursor, change the order of what is on the screen, or look like a line of
// poolinit's own. Every kind of white space becomes a blank, and anything else
// that is not printable a question mark.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return '?'
	}, s)
}
