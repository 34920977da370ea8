// Package tini is poolinit init, a replacement for tini: an init for a container with
// one program. It starts the program, forwards signals to it, waits for orphans, and
// exits with the program's exit code. Its flags, environment variables, exit codes and
// messages are tini's, so that an image can exchange one for the other, by name too.
//
// An init has a few milliseconds. Half of these would be spent on initialising
// packages that only a pool needs, so the work is done in this package's initialiser,
// before those: see early.go. For the same reason it imports no logger and no flag
// library. Command lines that need no speed, such as --help or a wrong flag, are
// answered by Main, which main calls.
package tini
