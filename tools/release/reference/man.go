package main

import (
	"fmt"
	"strings"
)

// man is the manual page, in man(7).
func (p *program) man(version, date string) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".\\\" Made from the output of poolinit --help.\n.TH POOLINIT 1 %s %q \"User Commands\"\n", date, strings.TrimSpace("poolinit "+version))
	what := strings.TrimSuffix(strings.TrimPrefix(p.about, "poolinit "), ".")
	fmt.Fprintf(&b, ".SH NAME\npoolinit \\- %s\n.SH SYNOPSIS\n", roff(what))
	for i, c := range p.commands {
		if i > 0 {
			b.WriteString(".br\n")
		}
		name := c.name
		if name == "run" {
			name = "[run]" // it may be left out
		}
		fmt.Fprintf(&b, ".B poolinit\n%s\n", roff(strings.TrimSpace(name+" "+c.args)))
	}
	b.WriteString(".SH COMMANDS\n")
	for _, c := range p.commands {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", c.name, roff(c.summary))
	}
	for _, c := range p.commands {
		c.man(&b)
	}
	b.WriteString(".SH SEE ALSO\n.BR tini (1),\n.BR docker\\-run (1)\n.PP\n.UR https://github.com/poolinit/poolinit\nThe project\n.UE\n")
	return b.String()
}

// man is a section for the command's flags, and sections for those of its
// paragraphs that begin with a heading.
func (c *command) man(b *strings.Builder) {
	if len(c.flags) == 0 {
		return
	}
	heading := "OPTIONS"
	if c.name != "run" {
		heading = "POOLINIT " + strings.ToUpper(c.name)
	}
	fmt.Fprintf(b, ".SH %q\n", heading)
	paragraphs(b, c.before)
	for _, f := range c.flags {
		words := f.words()
		for i, w := range words {
			words[i] = `\fB` + roff(w) + `\fR`
		}
		fmt.Fprintf(b, ".TP\n%s", strings.Join(words, ", "))
		if f.kind != "" {
			fmt.Fprintf(b, ` \fI%s\fR`, roff(f.kind))
		}
		fmt.Fprintf(b, "\n%s\n", roff(f.usage))
	}
	for _, text := range c.after {
		for prefix, heading := range map[string]string{"Signals: ": "SIGNALS", "Every flag of run has an environment variable": "ENVIRONMENT"} {
			if c.name == "run" && strings.HasPrefix(text, prefix) {
				fmt.Fprintf(b, ".SH %s\n", heading)
			}
		}
		if rest, ok := strings.CutPrefix(text, "Exit codes: "); ok && c.name == "run" {
			fmt.Fprintf(b, ".SH \"EXIT STATUS\"\n")
			text = rest
		}
		paragraphs(b, []string{text})
	}
}

// paragraphs are text; lines that are indented stay lines.
func paragraphs(b *strings.Builder, list []string) {
	for _, text := range list {
		if !afterHeading(b) {
			b.WriteString(".PP\n")
		}
		for i, line := range strings.Split(text, "\n") {
			if strings.HasPrefix(line, "  ") && i > 0 {
				b.WriteString(".br\n")
			}
			b.WriteString(roff(strings.TrimSpace(line)) + "\n")
		}
	}
}

func afterHeading(b *strings.Builder) bool {
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	return strings.HasPrefix(lines[len(lines)-1], ".SH ")
}

// roff is text that means itself.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
