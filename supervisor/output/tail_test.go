package output

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
)

func TestTail(t *testing.T) {
	var many []string
	for i := range 30 {
		many = append(many, fmt.Sprintf("line %d\n", i))
	}
	long := strings.Repeat("x", tailBytes)
	half := strings.Repeat("y", tailBytes/2)
	for name, tt := range map[string]struct {
		in   []string // writes
		want string
	}{
		"nothing":          {nil, ""},
		"an empty line":    {[]string{"\n"}, "\n"},
		"lines in pieces":  {[]string{"a\nb", "b\n", "\nc\n"}, "a\nbb\n\nc\n"},
		"a line begun":     {[]string{"a\nb"}, "a\nb"},
		"many lines":       {many, strings.Join(many[10:], "")},
		"many at once":     {[]string{strings.Join(many, "")}, strings.Join(many[10:], "")},
		"many and one":     {[]string{strings.Join(many, "") + "begun"}, strings.Join(many[11:], "") + "begun"},
		"many bytes":       {[]string{half + "\n", half + "\n", "z\n"}, half + "\nz\n"},
		"all fits":         {[]string{half[1:] + "\n", half[1:] + "\n"}, half[1:] + "\n" + half[1:] + "\n"},
		"one long line":    {[]string{"a\n" + long + long + "end\n"}, long[4:] + "end\n"},
		"one without end":  {[]string{long, long, "end"}, long[3:] + "end"},
		"after a long one": {[]string{long + long + "\nz\n"}, "z\n"},
		"more than a pipe": {[]string{strings.Repeat(long+"\n", 50), "z\n"}, "z\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRelay(Prefix, io.Discard, io.Discard)
			c := start(t, r, 3)
			_, _ = io.WriteString(c.out, "not this\n")
			for _, s := range tt.in {
				_, _ = io.WriteString(c.err, s)
			}
			for _, when := range []string{"at once", "after the end"} {
				if got := r.Tail(3); got != tt.want {
					t.Errorf("%s: %d bytes %.300q, want %d %.300q", when, len(got), got, len(tt.want), tt.want)
				}
				c.exit()
				if err := r.Close(testkit.Patience); err != nil {
					t.Fatal(err)
				}
			}
			if got := r.Tail(2) + r.Tail(-1); got != "" {
				t.Errorf("another worker's: %q", got)
			}
		})
	}
	if got := (*Relay)(nil).Tail(0); got != "" {
		t.Errorf("inherited output: %q", got)
	}
}

// A worker's number is also its replacement's. Their lines never mix.
func TestTailOfProcessesInTurn(t *testing.T) {
	r := NewRelay(JSON, io.Discard, io.Discard)
	first, second := start(t, r, 1), start(t, r, 1)
	for _, step := range []struct {
		f    *os.File
		text string
		want string
	}{
		{first.err, "a1\na", "a1\na"},
		{second.err, "b", "a1\na\nb"},
		{second.err, "2\n", "a1\na\nb2\n"},
		{first.err, "3\n", "a1\na\nb2\n3\n"},
	} {
		_, _ = io.WriteString(step.f, step.text)
		testkit.Eventually(t, "it is read", func() (any, bool) { return pending(t, step.f), pending(t, step.f) == 0 })
		if got := r.Tail(1); got != step.want {
			t.Fatalf("after %q: %q, want %q", step.text, got, step.want)
		}
	}
	first.exit()
	second.exit()
	if err := r.Close(testkit.Patience); err != nil {
		t.Fatal(err)
	}
}

// The tail has what a worker wrote although the destination takes nothing, and does not wait for that.
func TestTailBeforeABlockedDestination(t *testing.T) {
	rec := newGated()
	r := NewRelay(Prefix, io.Discard, rec)
	c := start(t, r, 1)
	_, _ = io.WriteString(c.err, "stuck\n")
	<-rec.entered
	_, _ = io.WriteString(c.err, "in the pipe\n")
	c.exit()
	within(t, "Tail", func() {
		for range 2 {
			if got := r.Tail(1); got != "stuck\nin the pipe\n" {
				t.Errorf("%q", got)
			}
		}
	})
	close(rec.gate)
	if err := r.Close(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	if want := "[worker 1] stuck\n[worker 1] in the pipe\n"; rec.String() != want {
		t.Errorf("relayed %q, want %q", rec.String(), want)
	}
}

// Each line is there once and at once, whoever reads the pipe at that moment.
func TestTailWhileRead(t *testing.T) {
	r := NewRelay(Prefix, io.Discard, io.Discard)
	var wg sync.WaitGroup
	for worker := range 4 {
		c := start(t, r, worker)
		wg.Go(func() {
			defer c.exit()
			var all []string
			for i := range 500 {
				all = append(all, fmt.Sprintf("line %d\n", i))
				_, _ = io.WriteString(c.err, all[i])
				if got, want := r.Tail(worker), strings.Join(all[max(0, i-tailLines+1):], ""); got != want {
					t.Errorf("worker %d: %q, want %q", worker, got, want)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := r.Close(testkit.Patience); err != nil {
		t.Fatal(err)
	}
}
