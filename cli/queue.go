package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/cli/terminal"
	"github.com/poolinit/poolinit/metrics/control"
)

var queueCommand = controlCommand{
	name: "queue",
	args: " [list | drop ID...]",
	about: "lists messages that wait for a worker, those that have waited longest\n(list, the default), or gives up some of them (drop). It never shows their bodies.\n" +
		"Exit codes: 0 done; 1 refused, one of the ids does not wait, or there is no pool;\n2 usage error.",
	declare: func(s *flags.Set, o *controlOptions) {
		s.Switch(&o.json, flags.TrueOrFalse, "json", "print JSON, as described in docs/status.md")
		flags.Add(s, &o.limit, flags.Between(1, control.MaxList), "limit", "", "1000", "`count`", "list at most this many messages")
	},
	takes: takeQueueArgs,
	run: func(o *controlOptions) error {
		if len(o.drop) > 0 {
			return dropWaiting(o)
		}
		return listWaiting(o)
	},
}

func takeQueueArgs(args []string, o *controlOptions) error {
	switch {
	case len(args) == 0, args[0] == "list" && len(args) == 1:
		return nil
	case args[0] == "list":
		return fmt.Errorf("queue list takes no arguments, but got %q", args[1])
	case args[0] != "drop":
		return flags.BadValue("queue", args[0], errors.New("list or drop"))
	case len(args) == 1:
		return errors.New("queue drop needs the id of a message, as queue list shows it")
	case len(args)-1 > control.MaxIDs:
		return fmt.Errorf("queue drop takes at most %d ids, but got %d", control.MaxIDs, len(args)-1)
	}
	for _, arg := range args[1:] {
		id, err := strconv.ParseUint(arg, 10, 64)
		if err != nil || id == 0 {
			return flags.BadValue("queue drop", arg, errors.New("the id of a message, such as 17"))
		}
		o.drop = append(o.drop, id)
	}
	slices.Sort(o.drop)
	o.drop = slices.Compact(o.drop) // each counts once
	return nil
}

func listWaiting(o *controlOptions) error {
	c, err := o.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	l, raw, err := c.Queue(o.limit)
	switch {
	case err != nil:
		return err
	case o.json:
		_, err = os.Stdout.Write(raw)
	default:
		_, err = os.Stdout.WriteString(queueTable(l, wantsColours()))
	}
	return err
}

// queueTable returns a list as a table for people, which awk can read, too.
func queueTable(l *control.List, colours bool) string {
	if len(l.Messages) == 0 && l.More == 0 {
		return "no message waits\n"
	}
	var b strings.Builder
	rows := [][]cell{headRow("ID SOURCE AGE BYTES ATTEMPTS DUE")}
	for i := range l.Messages {
		m := &l.Messages[i]
		due := "now"
		if m.Due > 0 {
			due = "in " + span(m.Due)
		}
		rows = append(rows, []cell{
			{strconv.FormatUint(m.ID, 10), ""}, {terminal.Printable(m.Source), ""}, {span(m.Age), ""}, {bytesOf(uint64(m.Bytes)), ""},
			{strconv.Itoa(m.Attempts), ""}, {due, ""},
		})
	}
	painter{&b, colours}.rows(rows, true)
	if l.More > 0 {
		fmt.Fprintf(&b, "... and %d more\n", l.More)
	}
	return b.String()
}

func dropWaiting(o *controlOptions) error {
	c, err := o.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	dropped, err := c.Drop(o.drop)
	if err != nil {
		return err
	}
	fmt.Printf("dropped %d of %d messages\n", dropped, len(o.drop))
	if missing := len(o.drop) - dropped; missing > 0 {
		return fmt.Errorf("%d of these messages do not wait: they are with a worker, or there are none with these ids", missing)
	}
	return nil
}
