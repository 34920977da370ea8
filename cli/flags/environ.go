package flags

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Prefix begins the name of every variable that sets a flag.
const Prefix = "POOLINIT_"

// Variable returns the name of the variable that sets a flag.
func Variable(flag string) string {
	return Prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// isServiceVariable reports whether Kubernetes makes a variable for a Service
// that is called poolinit. A flag must not have such a name.
func isServiceVariable(name string) bool {
	return strings.HasPrefix(name, "POOLINIT_SERVICE_") || name == "POOLINIT_PORT" || strings.HasPrefix(name, "POOLINIT_PORT_")
}

// IsVariable reports whether a variable sets a flag of this set.
func (s *Set) IsVariable(name string) bool {
	setting, ours := strings.CutPrefix(name, Prefix)
	if !ours || isServiceVariable(name) {
		return false
	}
	flag := strings.ToLower(strings.ReplaceAll(setting, "_", "-"))
	return flag != "help" && s.flags.Lookup(flag) != nil && Variable(flag) == name
}

// ParseEnviron sets the flags that the command line did not set, from the
// environment. It takes no notice of the variables whose names are in ignore. It
// returns a warning for each variable that looks like a setting and is not one.
func (s *Set) ParseEnviron(environ, ignore []string) (warnings []string, err error) {
	for _, v := range environ {
		name, text, _ := strings.Cut(v, "=")
		switch {
		case !strings.HasPrefix(name, Prefix), isServiceVariable(name), slices.Contains(ignore, name):
		case s.IsVariable(name):
			if err := s.setFromVariable(name, text); err != nil {
				return nil, err
			}
		default:
			nearest := s.nearestFlag(strings.TrimPrefix(name, Prefix))
			if nearest == "help" {
				nearest = "" // the one flag that has no variable
			}
			if nearest != "" {
				nearest = Variable(nearest)
			}
			warnings = append(warnings, fmt.Sprintf("%s is not a poolinit setting%s", name, didYouMean(nearest, "")))
		}
	}
	return warnings, nil
}

// setFromVariable sets one flag, unless the command line did. An empty variable
// counts as none: a Dockerfile's ENV is switched off in this way.
func (s *Set) setFromVariable(name, text string) error {
	var err error
	s.flags.VisitAll(func(f *pflag.Flag) {
		if Variable(f.Name) != name || f.Changed || text == "" {
			return
		}
		words := []string{text}
		if _, list := f.Value.(interface{ isList() }); list {
			words = splitList(text)
		}
		for _, word := range words {
			if bad := f.Value.Set(word); bad != nil && err == nil {
				err = BadValue(name, word, bad)
			}
		}
		f.Changed = true
	})
	return err
}

// splitList splits a list at its commas, but one of URLs not at those inside of a URL,
// as in allow=10.0.0.0/8,::1.
func splitList(text string) (words []string) {
	for part := range strings.SplitSeq(text, ",") {
		if len(words) > 0 && strings.Contains(words[0], "://") && !strings.Contains(part, "://") {
			words[len(words)-1] += "," + part
			continue
		}
		words = append(words, part)
	}
	return words
}
