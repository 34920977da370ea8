package main

import (
	"fmt"
	"strings"
)

// generated is the first line of each file, after the shell's own.
const generated = "# Completion for poolinit, made from the output of poolinit --help.\n"

// A kind is what a shell can offer for a flag's value.
type kind int

const (
	nothing kind = iota // a number, a time: it has to be known
	choice
	signalName
	userName
	fileName
	directoryName
)

// signalNames are those that make sense for a worker.
const signalNames = "TERM INT QUIT HUP USR1 USR2 ABRT KILL WINCH CONT"

func (f flag) offers() kind {
	switch {
	case len(f.values) > 0:
		return choice
	case strings.EqualFold(f.kind, "signal"):
		return signalName
	case f.kind == "user":
		return userName
	case f.kind == "file":
		return fileName
	case f.kind == "directory":
		return directoryName
	}
	return nothing
}

// takes are the words of the command's flags that need a value.
func (c *command) takes() (list []string) {
	for _, f := range c.flags {
		if f.kind != "" {
			list = append(list, f.words()...)
		}
	}
	return list
}

// all are the words of all its flags.
func (c *command) all() (list []string) {
	for _, f := range c.flags {
		list = append(list, f.words()...)
	}
	return list
}

// names are the subcommands.
func (p *program) names() (list []string) {
	for _, c := range p.commands {
		list = append(list, c.name)
	}
	return list
}

// runs reports whether the command is followed by a program to run.
func (c *command) runs() bool { return strings.Contains(c.args, "COMMAND") }

// bash is for bash, with or without bash-completion.
func (p *program) bash() string {
	var takes, all, values strings.Builder
	for _, c := range p.commands {
		fmt.Fprintf(&takes, "\t%s) takes=%q ;;\n", c.name, " "+strings.Join(c.takes(), " ")+" ")
		fmt.Fprintf(&all, "\t%s) all=%q ;;\n", c.name, strings.Join(c.all(), " "))
		for _, f := range c.flags {
			var offer string
			switch f.offers() {
			case choice:
				offer = "-W '" + strings.Join(f.values, " ") + "'"
			case signalName:
				offer = "-W '" + signalNames + "'"
			case userName:
				offer = "-u"
			case fileName:
				offer = "-f"
			case directoryName:
				offer = "-d"
			default:
				continue
			}
			for _, w := range f.words() {
				fmt.Fprintf(&values, "\t'%s %s') COMPREPLY=($(compgen %s -- \"$cur\")) ;;\n", c.name, w, offer)
			}
		}
	}
	return generated + strings.NewReplacer("NAMES", strings.Join(p.names(), " "), "NAMED", strings.Join(p.names(), "|*,"),
		"\tTAKES\n", takes.String(), "\tALL\n", all.String(), "\tVALUES\n", values.String()).Replace(bashText)
}

// bash splits --flag=value into three words.
const bashText = `
_poolinit() {
	local cur=${COMP_WORDS[COMP_CWORD]} command=run takes= all= flag= i=1
	COMPREPLY=()
	case $COMP_CWORD,${COMP_WORDS[1]} in
	1,*) ;;
	*,NAMED) command=${COMP_WORDS[1]} i=2 ;;
	esac
	case $command in
	TAKES
	esac
	case $command in
	ALL
	esac
	while ((i < COMP_CWORD)); do
		local word=${COMP_WORDS[i]}
		case $word in
		--)
			((++i))
			break
			;;
		-*)
			((++i))
			if [[ ${COMP_WORDS[i]} == = ]]; then
				((++i))
			elif [[ $takes != *" $word "* ]]; then
				continue
			fi
			if ((i >= COMP_CWORD)); then
				flag=$word
				[[ $cur == = ]] && cur=
			fi
			((++i))
			;;
		*) break ;;
		esac
	done
	if [[ -n $flag ]]; then
		case "$command $flag" in
	VALUES
		esac
	elif ((i >= COMP_CWORD)) && [[ $cur == -* && ${COMP_WORDS[i - 1]} != -- ]]; then
		COMPREPLY=($(compgen -W "$all" -- "$cur"))
	elif [[ $command == run || $command == init ]]; then
		if ((COMP_CWORD == 1)); then
			COMPREPLY=($(compgen -W "NAMES" -- "$cur"))
		fi
		if ((i >= COMP_CWORD)); then
			((${#COMPREPLY[@]})) || COMPREPLY=($(compgen -c -- "$cur"))
		elif declare -F _command_offset >/dev/null; then
			_command_offset $i
		else
			COMPREPLY=($(compgen -f -- "$cur"))
		fi
	elif [[ $command == send ]] && ((i < COMP_CWORD)); then
		COMPREPLY=($(compgen -f -- "$cur"))
	fi
}
complete -o filenames -F _poolinit poolinit
`

// zsh is a function of that name for $fpath.
func (p *program) zsh() string {
	var b strings.Builder
	b.WriteString("#compdef poolinit\n" + generated + "\n_poolinit() {\n\tlocal -a commands flags\n\tcommands=(\n")
	for _, c := range p.commands {
		fmt.Fprintf(&b, "\t\t%s\n", quoted(c.name+":"+c.summary))
	}
	b.WriteString("\t)\n\tlocal command=run\n\tif ((CURRENT > 2)) && (($commands[(I)${words[2]}:*])); then\n" +
		"\t\tcommand=$words[2]\n\t\tshift words\n\t\t((CURRENT--))\n" +
		"\telif ((CURRENT == 2)) && [[ $PREFIX != -* ]]; then\n\t\t_describe command commands\n\tfi\n\tcase $command in\n")
	for _, c := range p.commands {
		fmt.Fprintf(&b, "\t%s)\n\t\tflags=(\n", c.name)
		for _, f := range c.flags {
			for _, w := range f.words() {
				fmt.Fprintf(&b, "\t\t\t%s\n", quoted(f.zsh(w)))
			}
		}
		b.WriteString("\t\t)\n")
		switch {
		case c.runs():
			b.WriteString("\t\t_arguments -A '-*' $flags '(-)1:command:_command_names -e' '*::arguments:_normal'\n")
		case c.name == "send":
			b.WriteString("\t\t_arguments $flags '1:address:_guard \"*\" address' '*:file:_files'\n")
		default:
			b.WriteString("\t\t_arguments $flags\n")
		}
		b.WriteString("\t\t;;\n")
	}
	b.WriteString("\tesac\n}\n\n_poolinit \"$@\"\n")
	return b.String()
}

// zsh is what _arguments wants to know of a flag.
func (f flag) zsh(word string) string {
	usage := strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`).Replace(f.usage)
	if f.kind == "" {
		return fmt.Sprintf("%s[%s]", word, usage)
	}
	if strings.HasPrefix(word, "--") {
		word += "="
	}
	action := map[kind]string{choice: "(" + strings.Join(f.values, " ") + ")", signalName: "(" + signalNames + ")",
		userName: "_users", fileName: "_files", directoryName: "_directories"}[f.offers()]
	return fmt.Sprintf("*%s[%s]:%s:%s", word, usage, strings.ToLower(f.kind), action)
}

// fish is for fish's directory of completions.
func (p *program) fish() string {
	var takes []string
	for _, c := range p.commands {
		if c.runs() {
			takes = append(takes, c.takes()...)
		}
	}
	var b strings.Builder
	b.WriteString(generated + strings.NewReplacer("NAMES", strings.Join(p.names(), " "), "TAKES", strings.Join(takes, " ")).Replace(fishText))
	for _, c := range p.commands {
		fmt.Fprintf(&b, "complete -c poolinit -n __poolinit_first -a %s -d %s\n", c.name, quoted(c.summary))
	}
	for _, c := range p.commands {
		if !c.runs() && c.name != "send" {
			fmt.Fprintf(&b, "complete -c poolinit -n '__poolinit_in %s' -f\n", c.name)
		}
		for _, f := range c.flags {
			fmt.Fprintf(&b, "complete -c poolinit -n '__poolinit_in %s'", c.name)
			if f.short != "" {
				fmt.Fprintf(&b, " -s %s", f.short)
			}
			if f.long != "" {
				fmt.Fprintf(&b, " -l %s", f.long)
			}
			if f.kind != "" {
				b.WriteString(map[kind]string{nothing: " -x", choice: " -x -a " + quoted(strings.Join(f.values, " ")), signalName: " -x -a " + quoted(signalNames),
					userName: " -x -a '(__fish_complete_users)'", fileName: " -r -F", directoryName: " -x -a '(__fish_complete_directories)'"}[f.offers()])
			}
			fmt.Fprintf(&b, " -d %s\n", quoted(f.usage))
		}
	}
	return b.String()
}

const fishText = `
function __poolinit_first -d 'nothing is there yet'
    test (count (commandline -opc)) -eq 1
end

function __poolinit_in -d 'this is the subcommand, and its own COMMAND is not there yet'
    set -l words (commandline -opc)[2..-1]
    set -l command run
    if contains -- "$words[1]" NAMES
        set command $words[1]
        set -e words[1]
    end
    test $command = $argv[1]; or return 1
    contains -- $command run init; or return 0
    while set -q words[1]
        switch $words[1]
            case --
                return 1
            case TAKES
                set -q words[2]; and set -e words[2]
            case '-*'
            case '*'
                return 1
        end
        set -e words[1]
    end
end

`

// quoted is a word for any of the shells.
func quoted(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
