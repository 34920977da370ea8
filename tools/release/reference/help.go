package main

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
)

// A program is what --help says of it.
type program struct {
	about    string
	commands []command // the first is run
}

// A command is a subcommand.
type command struct {
	name, args, summary string

	before []string // paragraphs between the first line and the flags
	flags  []flag
	after  []string // paragraphs after the flags
}

// A flag of a command.
type flag struct {
	long, short string // without dashes; one of them may be absent
	kind        string // of its value; "": it has none
	usage       string
	values      []string // all that are allowed, where they can be counted
}

// ask asks the binary.
func ask(binary string) (*program, error) {
	text, err := help(binary, "--help")
	if err != nil {
		return nil, err
	}
	p := new(program)
	p.about, _, _ = strings.Cut(text, "\n")
	run := command{name: "run"}
	for _, block := range blocks(text)[1:] {
		switch {
		case strings.HasPrefix(block, "Usage:\n"):
			p.commands = usages(block)
		case strings.HasPrefix(block, "Flags of run:\n"):
			run.flags = flags(block)
		default:
			run.after = append(run.after, block)
		}
	}
	if len(p.commands) == 0 || p.commands[0].name != "run" || len(run.flags) == 0 {
		return nil, fmt.Errorf("--help is not understood:\n%s", text)
	}
	run.args, run.summary = p.commands[0].args, p.commands[0].summary
	p.commands[0] = run
	for i := range p.commands {
		if err := p.commands[i].ask(binary); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// ask completes the command with what its own --help says.
func (c *command) ask(binary string) error {
	switch c.name {
	case "version":
		return nil
	case "run":
	case "init":
		text, err := help(binary, c.name, "-h")
		if err != nil {
			return err
		}
		for _, block := range blocks(text)[1:] {
			switch {
			case strings.HasPrefix(block, "  -"):
				c.flags = tiniFlags(block)
			case strings.HasSuffix(block, ":"): // a heading
			case len(c.flags) == 0:
				c.before = append(c.before, block)
			default:
				c.after = append(c.after, block)
			}
		}
	default:
		text, err := help(binary, c.name, "--help")
		if err != nil {
			return err
		}
		for _, block := range blocks(text) {
			switch {
			case strings.HasPrefix(block, "Usage:\n"):
			case strings.HasPrefix(block, "Flags:\n"):
				c.flags = flags(block)
			case len(c.flags) == 0:
				c.before = append(c.before, block)
			default:
				c.after = append(c.after, block)
			}
		}
	}
	if len(c.flags) == 0 {
		return fmt.Errorf("%s --help is not understood", c.name)
	}
	for i := range c.flags {
		c.askValues(binary, &c.flags[i])
	}
	return nil
}

func help(binary string, args ...string) (string, error) {
	out, err := exec.Command(binary, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %q: %w", binary, args, err)
	}
	return string(out), nil
}

// blocks are what blank lines separate.
func blocks(text string) []string { return strings.Split(strings.Trim(text, "\n"), "\n\n") }

var (
	usageLine   = regexp.MustCompile(`^  poolinit \[?([a-z]+)\]?`)
	noArguments = regexp.MustCompile(`(?m)^  poolinit version +`)
)

// usages are the commands that --help lists: name, arguments, what it does. The
// one that has no arguments tells in which column the last of them begins.
func usages(block string) (list []command) {
	column := len(noArguments.FindString(block))
	for line := range strings.Lines(block) {
		line = strings.TrimRight(line, "\n")
		if m := usageLine.FindStringSubmatch(line); m != nil && column > 0 && len(line) > column {
			list = append(list, command{name: m[1], args: strings.TrimSpace(line[len(m[0]):column]), summary: line[column:]})
		}
	}
	return list
}

var flagLine = regexp.MustCompile(`^  (?:-(\w), |    )--([a-z-]+)(?: (\S+))?(?: {2,}(\S.*))$`)

// flags are the lines of a list of flags, which go on below.
func flags(block string) (list []flag) {
	for line := range strings.Lines(block) {
		line = strings.TrimRight(line, "\n")
		if m := flagLine.FindStringSubmatch(line); m != nil {
			list = append(list, flag{short: m[1], long: m[2], kind: m[3], usage: m[4]})
		} else if len(list) > 0 {
			list[len(list)-1].usage += " " + strings.TrimSpace(line)
		}
	}
	return list
}

var tiniLine = regexp.MustCompile(`^  (?:--([a-z-]+)|-(\w))(?:, --([a-z-]+))?(?: ([A-Z_]+))?: (.*)$`)

// tiniFlags are those of init, which looks like tini.
func tiniFlags(block string) (list []flag) {
	for line := range strings.Lines(block) {
		if m := tiniLine.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			list = append(list, flag{short: m[2], long: m[1] + m[3], kind: m[4], usage: m[5]})
		}
	}
	return list
}

var (
	notAllowed = regexp.MustCompile(`is not allowed: (.*)\n`)
	aChoice    = regexp.MustCompile(`^[a-z-]+(, [a-z-]+)* or [a-z-]+$`)
)

// askValues asks which values a flag may have. The command line is wrong in any
// case, so that nothing begins: run and send get no argument, the others one.
func (c *command) askValues(binary string, f *flag) {
	if f.kind == "" || c.name == "init" {
		return
	}
	args := []string{c.name, "--" + f.long + "=?"}
	if c.name != "run" && c.name != "send" {
		args = append(args, "?")
	}
	var exit *exec.ExitError
	if _, err := exec.Command(binary, args...).Output(); !errors.As(err, &exit) {
		return
	}
	if m := notAllowed.FindSubmatch(exit.Stderr); m != nil && aChoice.Match(m[1]) {
		f.values = strings.Split(strings.ReplaceAll(string(m[1]), " or ", ", "), ", ")
	}
}

// words are the flag as it is typed: --long, -s.
func (f flag) words() (list []string) {
	if f.short != "" {
		list = append(list, "-"+f.short)
	}
	if f.long != "" {
		list = append(list, "--"+f.long)
	}
	return list
}
