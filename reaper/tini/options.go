package tini

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/poolinit/poolinit/reaper/signals"
)

// options is tini's command line, together with its environment variables.
type options struct {
	subreaper   bool
	group       bool // signals go to the child's process group
	warnReap    bool
	verbosity   int
	parentDeath syscall.Signal // what to get when the parent dies, or 0
	success     [256]bool      // exit codes that become 0
	command     []string
}

// defaultVerbosity is the level up to which messages are written: warnings.
const defaultVerbosity = 1

var (
	errHelp    = errors.New("help wanted")
	errLicense = errors.New("license wanted")
	errVersion = errors.New("version wanted")
)

// A usageError is answered with the usage text. It may be empty.
type usageError string

func (e usageError) Error() string { return string(e) }

// parse reads the command line as getopt(3) does where it follows POSIX: options end at
// the first word that is not one, and the command's own options are not touched. (tini
// built with glibc looks for its options among those too.)
func parse(args []string, env func(string) (string, bool)) (*options, error) {
	o := &options{verbosity: defaultVerbosity}
	if len(args) == 1 && args[0] == "--version" {
		return o, errVersion
	}
	rest, err := o.words(args)
	if err == nil && len(rest) == 0 {
		err = usageError("")
	}
	if err != nil {
		return o, err
	}
	o.command = rest
	o.environment(env)
	return o, nil
}

// words reads the options at the beginning of args, and returns the rest.
func (o *options) words(args []string) (rest []string, err error) {
	for len(args) > 0 && err == nil {
		word := args[0]
		switch {
		case word == "--":
			return args[1:], nil
		case word == "--help":
			return nil, errHelp
		case len(word) < 2 || word[0] != '-':
			return args, nil
		}
		args, err = o.cluster(word[1:], args[1:])
	}
	return args, err
}

// cluster reads a word of option letters, as in -vvg, -pTERM or -e 143, and returns the
// words that follow it.
func (o *options) cluster(letters string, rest []string) ([]string, error) {
	for letters != "" {
		letter := letters[0]
		letters = letters[1:]
		if letter != 'p' && letter != 'e' {
			if err := o.option(letter); err != nil {
				return nil, err
			}
			continue
		}
		if letters != "" {
			return rest, o.value(letter, letters)
		}
		if len(rest) == 0 {
			return nil, usageError(fmt.Sprintf("option requires an argument -- '%c'", letter))
		}
		return rest[1:], o.value(letter, rest[0])
	}
	return rest, nil
}

func (o *options) option(letter byte) error {
	switch letter {
	case 's':
		o.subreaper = true
	case 'v':
		o.verbosity++
	case 'w':
		o.warnReap = true
	case 'g':
		o.group = true
	case 'h':
		return errHelp
	case 'l':
		return errLicense
	default:
		return usageError(fmt.Sprintf("invalid option -- '%c'", letter))
	}
	return nil
}

// value reads the value of -p or -e. A wrong value is not a usageError: like tini, the
// answer names it, without the usage text.
func (o *options) value(letter byte, value string) error {
	//lint:ignore ST1005 tini's words
	bad := fmt.Errorf("Not a valid option for -%c: %s", letter, value)
	if letter == 'p' {
		sig, err := signals.Parse(value)
		if err != nil {
			return bad
		}
		o.parentDeath = sig
		return nil
	}
	code, err := strconv.Atoi(value)
	if err != nil || code < 0 || code >= len(o.success) {
		return bad
	}
	o.success[code] = true
	return nil
}

// environment adds the variables. TINI_VERBOSITY replaces -v. A value that is not a
// number counts as 0, as for atoi(3), which tini uses.
func (o *options) environment(env func(string) (string, bool)) {
	if _, ok := env("TINI_SUBREAPER"); ok {
		o.subreaper = true
	}
	if _, ok := env("TINI_KILL_PROCESS_GROUP"); ok {
		o.group = true
	}
	if v, ok := env("TINI_VERBOSITY"); ok {
		o.verbosity, _ = strconv.Atoi(strings.TrimSpace(v))
	}
}

// refuse answers a command line that starts no program, and returns the exit code.
func (o *options) refuse(say *messenger, err error, about About) int {
	var wrong usageError
	switch {
	case err == errHelp:
		fmt.Fprint(os.Stdout, usageOf(say.name, about))
	case err == errVersion:
		fmt.Println(versionOf(say.name, about))
	case err == errLicense:
		fmt.Print(about.License)
	case errors.As(err, &wrong):
		if wrong != "" {
			fmt.Fprintf(os.Stderr, "%s: %s\n", say.name, wrong)
		}
		fmt.Fprint(os.Stderr, usageOf(say.name, about))
		return exitInitFailed
	default:
		say.fatal("%v", err)
		return exitInitFailed
	}
	return 0
}

func versionOf(name string, about About) string { return name + " (poolinit " + about.Version + ")" }

func usageOf(name string, about About) string {
	return versionOf(name, about) + "\nUsage: " + name + ` [OPTIONS] [--] PROGRAM [ARGS] | --version

Run a program under a valid init process: zombies are reaped, signals passed on.

Command line options:

  --version: Show version and exit.
  -h, --help: Show this help message and exit.
  -s: Register as a process subreaper.
  -p SIGNAL: Trigger SIGNAL when parent dies, e.g. "-p SIGKILL".
  -v: Generate more verbose output. Repeat up to 3 times.
  -w: Print a warning when processes are getting reaped.
  -g: Send signals to the child's process group.
  -e EXIT_CODE: Remap EXIT_CODE (from 0 to 255) to 0 (can be repeated).
  -l: Show license and exit.

Environment variables:

  TINI_SUBREAPER: Register as a process subreaper.
  TINI_VERBOSITY: Set the verbosity level (default: 1).
  TINI_KILL_PROCESS_GROUP: Send signals to the child's process group.

`
}
