package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/poolinit/poolinit/cli/terminal"
	"github.com/poolinit/poolinit/metrics/status"
)

// Colours add nothing to what the words say: not every terminal shows them.
const (
	colourOff = "\x1b[0m"
	bold      = "\x1b[1m"
	red       = "\x1b[31m"
	green     = "\x1b[32m"
	yellow    = "\x1b[33m"
	faint     = "\x1b[2m"
)

// stateColours are those of workers' states.
var stateColours = map[string]string{
	"ready": green, "busy": green, "starting": yellow, "stopping": yellow, "backoff": red, "stopped": red, "detached": yellow,
}

// A cell is a field of a table.
type cell struct {
	text   string
	colour string
}

// table returns a document as a table for people. Fields are separated by two
// blanks, and "-" stands for none, so that awk can read it, too. On a narrow
// terminal, where lines are cut, LAST-EXIT comes early.
func table(d *status.Document, colours, narrow bool) string {
	var b strings.Builder
	p := painter{&b, colours}
	p.head(d)
	workers := workerRows(d)
	if narrow {
		lastExitEarly(workers)
	}
	p.rows(workers, len(d.Workers) > 0)
	if len(d.Sources) > 0 {
		b.WriteByte('\n')
		p.rows(sourceRows(d), true)
	}
	return b.String()
}

type painter struct {
	*strings.Builder
	colours bool
}

func (p painter) paint(c cell) string {
	if !p.colours || c.colour == "" {
		return c.text
	}
	return c.colour + c.text + colourOff
}

func (p painter) head(d *status.Document) {
	state := cell{"ready", green}
	switch {
	case d.Stopping != "":
		state = cell{"stopping: " + terminal.Printable(d.Stopping), yellow}
	case !d.Ready:
		state = cell{"not ready: " + terminal.Printable(d.Reason), red}
	}
	fmt.Fprintf(p, "poolinit %s, PID %d, up %s, generation %d: %s\n", terminal.Printable(d.Version), d.PID, span(d.Uptime), d.Generation, p.paint(state))
	if r := reloadLine(d); r.text != "" {
		fmt.Fprintln(p, p.paint(r))
	}
	if q := d.Queue; q != nil {
		full := cell{fmt.Sprintf("queue: %d of %d messages, %s of %s", q.Messages, q.LimitMessages, bytesOf(uint64(q.Bytes)), bytesOf(uint64(q.LimitBytes))), ""}
		if q.Messages >= q.LimitMessages || q.Bytes >= q.LimitBytes {
			full.colour = red
		}
		fmt.Fprintf(p, "%s, oldest %s; in flight %d%s\n", p.paint(full), age(q.Oldest), q.InFlight, notNow(q))
	}
	if d.Wanted != len(d.Workers) {
		fmt.Fprintf(p, "workers: %d wanted, %d there\n", d.Wanted, len(d.Workers))
	}
	p.WriteByte('\n')
}

// notNow says which of the messages that wait may not be handed out now.
func notNow(q *status.Queue) (text string) {
	if q.Paused {
		text += "; paused"
	}
	if q.Delayed > 0 {
		text += fmt.Sprintf("; %d wait for a retry", q.Delayed)
	}
	if q.Isolated > 0 {
		text += fmt.Sprintf("; %d isolated", q.Isolated)
	}
	return text
}

func reloadLine(d *status.Document) cell {
	r := &d.Reload
	queued := ""
	if r.Queued {
		queued = "; another one follows"
	}
	switch r.State {
	case "none":
		return cell{}
	case "running":
		return cell{fmt.Sprintf("reload: running for %s, %d of %d replaced%s", span(r.Took), r.Replaced, len(d.Workers), queued), yellow}
	case "done":
		return cell{fmt.Sprintf("reload: done in %s%s", span(r.Took), queued), ""}
	}
	return cell{fmt.Sprintf("reload: %s after %d of %d: %s%s", terminal.Printable(r.State), r.Replaced, len(d.Workers), terminal.Printable(r.Reason), queued), red}
}

func workerRows(d *status.Document) [][]cell {
	messages := d.Queue != nil
	heads := "WORKER PID GEN STATE FOR STARTS MEMORY CPU"
	if messages {
		heads += " IN-HAND HELD HANDLED FAILED"
	}
	rows := [][]cell{headRow(heads + " LAST-EXIT STATUS")}
	for i := range d.Workers {
		w := &d.Workers[i]
		row := []cell{
			{strconv.Itoa(w.ID), ""}, {orDash(w.PID), ""}, {orDash(w.Generation), ""}, {terminal.Printable(w.State), stateColours[w.State]}, {span(w.StateFor), ""},
			{strconv.FormatUint(w.Starts, 10), ""}, {bytesOf(w.Memory), ""}, {span(w.CPU), ""},
		}
		if messages {
			row = append(row, cell{strconv.Itoa(w.InHand), ""}, cell{age(w.Held), ""}, cell{strconv.FormatUint(w.Handled, 10), ""}, count(w.Failed, yellow))
		}
		rows = append(rows, append(row, lastExit(d, w), workerText(w)))
	}
	return rows
}

// workerText is what a worker says of itself, after what is to be known of it
// before.
func workerText(w *status.Worker) cell {
	text := terminal.Printable(w.Text)
	if w.NextStart > 0 {
		return cell{"starts in " + span(w.NextStart), ""}
	}
	word, colour := "", ""
	switch {
	case w.Failing:
		word, colour = "failing", red
	case w.Newborn:
		word, colour = "newborn", yellow
	}
	if word != "" && text != "" {
		word += ", "
	}
	return cell{word + text, colour}
}

// lastExitEarly puts STATE, FOR and LAST-EXIT right after WORKER. STATUS stays the
// last column, which is the only one that may be empty.
func lastExitEarly(rows [][]cell) {
	for i, r := range rows {
		exit := len(r) - 2
		rows[i] = slices.Concat(r[:1], r[3:5], r[exit:exit+1], r[1:3], r[5:exit], r[exit+1:])
	}
}

func lastExit(d *status.Document, w *status.Worker) cell {
	x := w.LastExit
	if x == nil {
		return cell{"-", ""}
	}
	return cell{fmt.Sprintf("%s ago: %s", span(d.Time.Sub(x.Time).Seconds()), terminal.Printable(x.Text)), faint}
}

func sourceRows(d *status.Document) [][]cell {
	rows := [][]cell{headRow("SOURCE CONNECTIONS RECEIVED HANDLED FAILED RETRIED GIVEN-UP SPOOLED LOST EXPIRED")}
	for i := range d.Sources {
		s := &d.Sources[i]
		rows = append(rows, []cell{
			{terminal.Printable(s.Name), ""}, {strconv.FormatInt(s.Connections, 10), ""}, count(s.Received, ""), count(s.Handled, ""), count(s.Failed, yellow),
			count(s.Retried, yellow), count(s.GivenUp, red), count(s.Spooled, ""), count(s.Lost, red),
			count(s.Expired, yellow),
		})
	}
	return rows
}

func headRow(names string) (row []cell) {
	for name := range strings.FieldsSeq(names) {
		row = append(row, cell{name, bold})
	}
	return row
}

// rows writes a table. Texts are aligned to the left, numbers to the right.
func (p painter) rows(rows [][]cell, any bool) {
	if !any {
		return
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			if !slices.Contains([]string{"SOURCE", "STATE", "LAST-EXIT", "STATUS", "DUE"}, rows[0][i].text) {
				line.WriteString(gap + p.paint(c) + "  ")
			} else {
				line.WriteString(p.paint(c) + gap + "  ")
			}
		}
		fmt.Fprintln(p, strings.TrimRight(line.String(), " "))
	}
}

func count(n uint64, colour string) cell {
	if n == 0 {
		colour = ""
	}
	return cell{strconv.FormatUint(n, 10), colour}
}

func orDash(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func age(seconds float64) string {
	if seconds == 0 {
		return "-"
	}
	return span(seconds)
}

// span returns a time with the digits that matter: 12ms, 3.4s, 5m2s, 3h4m, 5d3h.
func span(seconds float64) string {
	d := time.Duration(max(seconds, 0) * float64(time.Second))
	days := int(d / (24 * time.Hour))
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case days == 0:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%dd%dh", days, int(d/time.Hour)%24)
}

// bytesOf returns a size in the unit that fits.
func bytesOf(n uint64) string {
	const units = "KMGT"
	size, unit := float64(n), -1
	for size >= 1024 && unit+1 < len(units) {
		size, unit = size/1024, unit+1
	}
	if unit < 0 {
		return strconv.FormatUint(n, 10) + "B"
	}
	digits := 0
	if size < 10 && size != float64(int(size)) {
		digits = 1
	}
	return strconv.FormatFloat(size, 'f', digits, 64) + units[unit:unit+1] + "iB"
}
