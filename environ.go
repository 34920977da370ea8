package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// envPrefix begins the name of every variable that is a flag.
const envPrefix = "POOLINIT_"

// envName returns the variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// workerVariables are what poolinit tells its workers. They are not settings,
// but for POOLINIT_WORKERS, and in a worker that is not one either: a poolinit
// that runs as somebody's worker must not take the size of that pool for its
// own.
func workerVariables() []string {
	return []string{"POOLINIT_WORKER_ID", "POOLINIT_WORKERS", "POOLINIT_GENERATION", "POOLINIT_DELIVER", "POOLINIT_FD",
		"POOLINIT_MESSAGE_ID", "POOLINIT_ATTEMPT", "POOLINIT_SOURCE", eventVariable}
}

// isServiceVariable reports whether Kubernetes makes a variable for a Service
// that is called poolinit. No flag may have such a name.
func isServiceVariable(name string) bool {
	return strings.HasPrefix(name, "POOLINIT_SERVICE_") || name == "POOLINIT_PORT" || strings.HasPrefix(name, "POOLINIT_PORT_")
}

// isSetting reports whether a variable sets a flag of run. Workers do not
// inherit those.
func isSetting(fs *pflag.FlagSet, name string) bool {
	setting, ours := strings.CutPrefix(name, envPrefix)
	flag := strings.ToLower(strings.ReplaceAll(setting, "_", "-"))
	return ours && flag != "help" && fs.Lookup(flag) != nil && envName(flag) == name
}

// fromEnviron sets the flags that the command line did not, from the
// environment. It returns a warning for each variable that looks like a
// setting and is none.
func fromEnviron(fs *pflag.FlagSet, environ []string) (warnings []string, err error) {
	inWorker := slices.ContainsFunc(environ, func(v string) bool {
		return strings.HasPrefix(v, "POOLINIT_WORKER_ID=") || strings.HasPrefix(v, eventVariable+"=")
	})
	for _, v := range environ {
		name, text, _ := strings.Cut(v, "=")
		switch {
		case !strings.HasPrefix(name, envPrefix), isServiceVariable(name):
		case inWorker && slices.Contains(workerVariables(), name):
		case isSetting(fs, name):
			if err := setFromEnviron(fs, name, text); err != nil {
				return nil, err
			}
		default:
			nearest := nearestFlag(fs, strings.TrimPrefix(name, envPrefix))
			if nearest == "help" {
				nearest = "" // the one flag that has no variable
			}
			if nearest != "" {
				nearest = envName(nearest)
			}
			warnings = append(warnings, fmt.Sprintf("%s is no setting of poolinit%s", name, didYouMean(nearest, "")))
		}
	}
	return warnings, nil
}

// setFromEnviron sets one flag, unless the command line did. An empty variable
// is as good as none: that is how a Dockerfile's ENV is switched off.
func setFromEnviron(fs *pflag.FlagSet, name, text string) error {
	var err error
	fs.VisitAll(func(f *pflag.Flag) {
		if envName(f.Name) != name || f.Changed || text == "" {
			return
		}
		words := []string{text}
		if _, list := f.Value.(interface{ isList() }); list {
			words = splitList(text)
		}
		for _, word := range words {
			if bad := f.Value.Set(word); bad != nil && err == nil {
				err = badValue(name, word, bad)
			}
		}
	})
	return err
}

// splitList splits a list of URLs at its commas, but not at those inside of a
// URL, as in allow=10.0.0.0/8,::1.
func splitList(text string) (words []string) {
	for part := range strings.SplitSeq(text, ",") {
		if len(words) > 0 && !strings.Contains(part, "://") {
			words[len(words)-1] += "," + part
			continue
		}
		words = append(words, part)
	}
	return words
}

// nearestFlag returns the flag that somebody may have meant, or "".
func nearestFlag(fs *pflag.FlagSet, name string) string {
	var names []string
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return nearest(strings.ToLower(strings.ReplaceAll(name, "_", "-")), names)
}

// nearest returns the name that is the most like a word, the first of several, or ""
// if none is.
func nearest(word string, names []string) string {
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

// distance is how many letters to add, drop, change or swap with the next.
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
