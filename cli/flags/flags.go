// Package flags reads command lines and environment variables.
//
// A Set holds the flags of one subcommand. Each flag is declared with Add, List
// or Switch, together with the parser of its values; the parsers for durations,
// sizes, signals, users and the like are here as well (values.go, user.go).
// Parse reads a command line into the variables that were declared, ParseEnviron
// reads the environment, and Report prints the help or the usage error. All
// subcommands use these, so that they refuse a bad value in the same words and
// with the same exit code.
package flags

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// ExitUsage is the exit code for a command line or a setting that is wrong.
const ExitUsage = 2

// ErrHelp is what Parse returns if the user asks for help.
var ErrHelp = errors.New("help requested")

// A Set is the flags of one subcommand.
type Set struct {
	name  string
	help  func(flags string) string
	flags *pflag.FlagSet
	asked bool // for help
}

// New returns an empty set for a subcommand, whose name is "" if it may be left
// out. help returns the text of --help, of which the lines about the flags are a
// part.
func New(name string, help func(flags string) string) *Set {
	s := &Set{name: name, help: help, flags: pflag.NewFlagSet(name, pflag.ContinueOnError)}
	s.flags.SortFlags = false
	s.flags.SetOutput(io.Discard) // Report reports
	s.flags.Usage = func() {}
	return s
}

// FlagsFirst ends the flags at the first argument that is not a flag. What
// follows it may look like a flag, but belongs to another program.
func (s *Set) FlagsFirst() { s.flags.SetInterspersed(false) }

// Add declares a flag. Its default goes through its parser, like any value.
// Quotes around kind mark it in the help as the name of the value.
func Add[T any](s *Set, to *T, parse func(string) (T, error), name, short, def, kind, usage string) {
	v := &value[T]{to: to, parse: parse, kind: strings.Trim(kind, "`")}
	if err := v.Set(def); err != nil {
		panic("default of --" + name + ": " + err.Error()) // a test runs this for every flag
	}
	s.flags.VarP(v, name, short, usage)
}

// List declares a flag that can be repeated. Its variable holds a list with
// commas.
func List[T any](s *Set, to *[]T, parse func(string) (T, error), name, kind, usage string) {
	s.flags.VarP(&listValue[T]{to: to, parse: parse, kind: strings.Trim(kind, "`")}, name, "", usage)
}

// Switch declares a flag that is on or off. parse reads --name=VALUE.
func (s *Set) Switch(to *bool, parse func(string) (bool, error), name, usage string) {
	Add(s, to, parse, name, "", "false", "bool", usage)
	s.flags.Lookup(name).NoOptDefVal = "true"
}

// Text declares a flag whose value is any text.
func (s *Set) Text(to *string, name, usage string) { s.flags.StringVar(to, name, "", usage) }

// HelpFlag declares --help, which is the last flag of every set.
func (s *Set) HelpFlag() {
	s.flags.BoolFuncP("help", "h", "print this", func(string) error { s.asked = true; return nil })
}

// Names returns the names of all flags, in the order of their declaration.
func (s *Set) Names() (names []string) {
	s.flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// Parse reads a command line, and returns what follows the flags. The error is
// for Report.
func (s *Set) Parse(args []string) (rest []string, err error) {
	if err := s.flags.Parse(args); err != nil {
		return nil, s.explain(err)
	}
	if s.asked {
		return nil, ErrHelp
	}
	return s.flags.Args(), nil
}

// Given reports whether the command line or the environment has set a flag.
func (s *Set) Given(name string) bool { return s.flags.Changed(name) }

// Dashed reports whether "--" ended the flags of the command line.
func (s *Set) Dashed() bool { return s.flags.ArgsLenAtDash() >= 0 }

// Help returns the text of --help.
func (s *Set) Help() string { return s.help(s.flags.FlagUsages()) }

// Report prints the help, if that is what Parse was asked for, or what is wrong
// with the command line. It returns the exit code.
func (s *Set) Report(err error) int {
	if errors.Is(err, ErrHelp) {
		fmt.Print(s.Help())
		return 0
	}
	return UsageError(s.name, err)
}

// UsageError prints what is wrong with the command line of a subcommand, whose
// name may be "", and returns the exit code.
func UsageError(name string, err error) int {
	if name != "" {
		name += " "
	}
	fmt.Fprintf(os.Stderr, "poolinit: %v\nTry 'poolinit %s--help'.\n", err, name)
	return ExitUsage
}

// explain replaces pflag's errors: they name the flag, the value, and what is
// allowed.
func (s *Set) explain(err error) error {
	var (
		invalid  *pflag.InvalidValueError
		unknown  *pflag.NotExistError
		required *pflag.ValueRequiredError
	)
	switch {
	case errors.As(err, &invalid):
		return BadValue("--"+invalid.GetFlag().Name, invalid.GetValue(), invalid.Unwrap())
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		dashes := "--"
		if short := unknown.GetSpecifiedShortnames(); short != "" {
			dashes = "-"
			if len(short) > 1 { // -workers 4, as Go's own programs have it
				name, _, _ = strings.Cut(short, "=")
			}
		}
		return fmt.Errorf("there is no flag %s%s%s", dashes, name, didYouMean(s.nearestFlag(name), "--"))
	case errors.As(err, &required):
		return fmt.Errorf("--%s needs a value", required.GetFlag().Name)
	}
	return err
}

// BadValue returns the error for a value that is not allowed; what is the flag,
// the variable or the argument that has it.
func BadValue(what, got string, allowed error) error {
	return fmt.Errorf("%s: %q is not allowed: %w", what, got, allowed)
}

// nearestFlag returns the flag that a misspelled name most likely stands for, or
// "".
func (s *Set) nearestFlag(name string) string {
	return Nearest(strings.ToLower(strings.ReplaceAll(name, "_", "-")), s.Names())
}

// Nearest returns the name that is the most similar to a word, the first of
// several, or "" if none is similar.
func Nearest(word string, names []string) string {
	best, least := "", len(word)/2+1
	for _, name := range names {
		if d := distance(word, name); d < least {
			best, least = name, d
		}
	}
	return best
}

func didYouMean(nearest, dashes string) string {
	if nearest == "" {
		return ""
	}
	return "; did you mean " + dashes + nearest + "?"
}

// distance returns how many letters have to be added, dropped, changed or
// swapped with the next one to make b of a.
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	before, last, row := rows[0], rows[1], rows[2]
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := last[j]
			if a[i] != b[j] {
				cost = min(last[j], last[j+1], row[j]) + 1
			}
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				cost = min(cost, before[j-1]+1)
			}
			row[j+1] = cost
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
