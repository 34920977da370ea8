package tini

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

func TestParseInit(t *testing.T) {
	codes := func(codes ...int) (set [256]bool) {
		for _, code := range codes {
			set[code] = true
		}
		return set
	}
	for in, want := range map[string]options{
		"true":                   {verbosity: 1, command: []string{"true"}},
		"-- true":                {verbosity: 1, command: []string{"true"}},
		"-- -v":                  {verbosity: 1, command: []string{"-v"}},
		"- -v":                   {verbosity: 1, command: []string{"-", "-v"}},
		"x -v -- -s":             {verbosity: 1, command: []string{"x", "-v", "--", "-s"}},
		"-- -- x":                {verbosity: 1, command: []string{"--", "x"}},
		"-v -v -vv x":            {verbosity: 5, command: []string{"x"}},
		"-swg x":                 {verbosity: 1, subreaper: true, warnReap: true, group: true, command: []string{"x"}},
		"-p SIGKILL x":           {verbosity: 1, parentDeath: syscall.SIGKILL, command: []string{"x"}},
		"-gpSIGTERM x":           {verbosity: 1, group: true, parentDeath: syscall.SIGTERM, command: []string{"x"}},
		"-p SIGHUP -p SIGTERM x": {verbosity: 1, parentDeath: syscall.SIGTERM, command: []string{"x"}},
		"-e 143 -e0 -we255 x":    {verbosity: 1, warnReap: true, success: codes(0, 143, 255), command: []string{"x"}},
	} {
		got, err := parse(strings.Fields(in), noEnv)
		if err != nil || fmt.Sprint(*got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
}

func noEnv(string) (string, bool) { return "", false }

func TestParseInitRefuses(t *testing.T) {
	usage := usageError("")
	for in, want := range map[string]error{
		"":               usage,
		"--":             usage,
		"-g":             usage,
		"-x true":        usage,
		"-gx true":       usage,
		"--verbose true": usage,
		"-v --version":   usage,
		"-p":             usage,
		"-e":             usage,
		"-p NOTHING x":   errors.New("Not a valid option for -p: NOTHING"),
		"-p -- x":        errors.New("Not a valid option for -p: --"),
		"-e 256 x":       errors.New("Not a valid option for -e: 256"),
		"-e1.5 x":        errors.New("Not a valid option for -e: 1.5"),
		"--version":      errVersion,
		"-h -x":          errHelp,
		"--help":         errHelp,
		"-gl":            errLicense,
	} {
		_, err := parse(strings.Fields(in), noEnv)
		var got usageError
		if want == usage && !errors.As(err, &got) {
			t.Errorf("%s: %v, want a usage error", in, err)
		}
		if want != usage && (err == nil || err.Error() != want.Error()) {
			t.Errorf("%s: %v, want %v", in, err, want)
		}
	}
}

// A variable counts by being there, whatever it says, but for the verbosity.
func TestParseInitEnvironment(t *testing.T) {
	for value, verbosity := range map[string]int{"3": 3, "0": 0, "": 0, "many": 0, " 2": 2, "-1": -1} {
		got, err := parse([]string{"-vv", "x"}, func(name string) (string, bool) {
			return value, strings.HasPrefix(name, "TINI_")
		})
		if err != nil || got.verbosity != verbosity || !got.group || !got.subreaper {
			t.Errorf("%q: %+v, %v", value, got, err)
		}
	}
}

func TestExecExitCode(t *testing.T) {
	for errno, want := range map[syscall.Errno]int{
		syscall.ENOENT: 127, syscall.EACCES: 126, syscall.ENOTDIR: 1, syscall.ENOEXEC: 1, syscall.E2BIG: 1, syscall.EAGAIN: 1,
	} {
		err := &fs.PathError{Op: "exec", Path: "x", Err: errno}
		if got := execExitCode(err); got != want {
			t.Errorf("%v: %d, want %d", errno, got, want)
		}
	}
	if got := describeExec(&fs.PathError{Op: "exec", Path: "x", Err: syscall.ENOTDIR}); got != "Not a directory" {
		t.Errorf("%q", got)
	}
}
