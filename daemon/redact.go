package daemon

import (
	"slices"
	"strings"
)

// hidden stands for what must not be logged.
const hidden = "***"

// secretWords are in the names of options and variables whose values are secrets.
var secretWords = []string{"pass", "pwd", "secret", "token", "key", "cred", "auth", "dsn"}

// redacted returns arguments of a command without what looks like a secret: passwords
// in URLs, and the values of options and variables whose names say so. It is a
// guess: a secret without a name cannot be told from any other word.
func redacted(args []string) []string {
	out := make([]string, 0, len(args))
	secretNext := false
	for _, arg := range args {
		name, value, assigned := strings.Cut(arg, "=")
		isOption := strings.HasPrefix(arg, "-")
		switch {
		case secretNext && !isOption:
			arg = hidden
		case assigned && value != "" && isSecret(name):
			arg = name + "=" + hidden
		default:
			arg = withoutPasswords(arg)
		}
		secretNext = isOption && !assigned && isSecret(name)
		out = append(out, arg)
	}
	return out
}

func isSecret(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(name, word) })
}

// withoutPasswords hides what is between scheme:// and @ in a text: user and
// password, or a token in their place.
func withoutPasswords(text string) string {
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(text, "://")
		out.WriteString(before)
		if !ok {
			return out.String()
		}
		out.WriteString("://")
		authority := rest[:len(rest)-len(strings.TrimLeftFunc(rest, func(r rune) bool { return !strings.ContainsRune("/?# ", r) }))]
		if at := strings.LastIndexByte(authority, '@'); at >= 0 {
			out.WriteString(hidden)
			rest = rest[at:]
		}
		text = rest
	}
}
