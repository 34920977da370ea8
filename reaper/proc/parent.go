package proc

import (
	"bytes"
	"os"
	"path"
	"slices"
)

var shells = []string{"sh", "ash", "bash", "busybox", "dash", "ksh", "mksh", "zsh"}

// ShellAbove returns the command line of PID 1 if that is the parent of this process
// and a shell that runs a command or a script, otherwise "". Such a shell does not
// forward signals.
func ShellAbove() string {
	if os.Getppid() != 1 {
		return ""
	}
	line, err := os.ReadFile("/proc/1/cmdline")
	if err != nil {
		return ""
	}
	return runsScript(line)
}

// runsScript returns a command line as /proc/PID/cmdline has it, with blanks, if it is
// that of a shell with arguments. A shell without any is one that a person uses.
func runsScript(line []byte) string {
	words := bytes.Split(bytes.TrimSuffix(line, []byte{0}), []byte{0})
	if len(words) < 2 || !slices.Contains(shells, path.Base(string(words[0]))) {
		return ""
	}
	return string(bytes.Join(words[:min(len(words), 2)], []byte(" "))) // the rest may have secrets in it
}
