package chaos

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A message is one that an honest client has sent.
type message struct {
	id      string
	life    *life     // of the pool that it was sent to
	written time.Time // when it was written whole; zero: it may never have been

	answer     string // "": none; "reply"; or the code of the failure
	text       string // of a failure
	answeredAt int64  // monotonic
}

// An oracle knows every message of a round, and what may become of it.
type oracle struct {
	mu       sync.Mutex
	messages map[string]*message
	queued   map[string]time.Time // messages of the System V queue
	wrong    []string
	counts   map[string]int
}

func newOracle() *oracle {
	return &oracle{messages: make(map[string]*message), queued: make(map[string]time.Time), counts: make(map[string]int)}
}

func (o *oracle) complain(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wrong = append(o.wrong, fmt.Sprintf(format, args...))
}

func (o *oracle) sent(m *message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.messages[m.id] = m
}

func (o *oracle) wroteWhole(m *message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	m.written = time.Now()
}

// answered notes the answer to a message, whose body was want.
func (o *oracle) answered(m *message, want string, f frame) {
	at := monotonic()
	answer, text := "reply", ""
	if f.failed {
		answer, text, _ = strings.Cut(f.body, ": ")
	}
	switch {
	case m.answer != "":
		o.complain("%q was answered %q, and then %q", m.id, m.answer, answer)
	case !f.failed && f.body != want:
		o.complain("%q was answered with another body: %.80q", m.id, f.body)
	case answer == "stopping" && m.life.beganToStop().IsZero():
		o.complain("%q was answered %q before the stop", m.id, f.body)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	m.answer, m.text, m.answeredAt = answer, text, at
}

// A book has the times at which workers have begun each message.
type book map[string][]int64

func readBook(t *testing.T, path string) book {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make(book)
	for in := bufio.NewScanner(f); in.Scan(); {
		at, id, _ := strings.Cut(in.Text(), " ")
		ns, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			t.Errorf("the book has %q", in.Text())
		}
		b[id] = append(b[id], ns)
	}
	return b
}

// judge compares what the clients and the workers have noted.
func (o *oracle) judge(r *round, b book) {
	for _, m := range o.messages {
		o.judgeOne(r, m, b[m.id])
	}
	excused := r.excused()
	for id, at := range o.queued {
		o.counts["queued"]++
		if len(b[id]) == 0 && at.After(excused) {
			o.complain("%q, sent %v before the end, has left the queue, and no worker had it", id, time.Since(at))
		}
	}
	most := r.attempts + 3 + r.poolEnds()
	for id, begun := range b {
		if len(begun) > most {
			o.complain("%q was begun %d times: more than %d", id, len(begun), most)
		}
	}
}

func (o *oracle) judgeOne(r *round, m *message, begun []int64) {
	mood, _, _ := strings.Cut(m.id, " ")
	innocent := mood == "ok" || mood == "slow"
	name := m.answer
	switch m.answer {
	case "":
		name = "none"
		if why := r.unanswered(m); why != "" {
			o.complain("%q is not answered: %s", m.id, why)
		}
	case "reply":
		if len(begun) == 0 {
			o.complain("%q has a reply, and no worker had it", m.id)
		} else if late := slices.Max(begun); late > m.answeredAt {
			o.complain("%q was handed to a worker %v after it had been answered", m.id, time.Duration(late-m.answeredAt))
		}
	case "stopping":
		if len(begun) > 0 {
			o.complain("%q was answered stopping, and a worker had it", m.id)
		}
	case "spooled":
		if len(begun) == 0 && innocent {
			o.complain("%q was answered spooled, and no worker had it after that", m.id)
		}
	case "interrupted":
	case "given-up":
		if innocent {
			o.complain("%q is innocent, and was given up: %s", m.id, m.text)
		}
	default:
		o.complain("%q was answered %s: %s", m.id, m.answer, m.text)
	}
	o.counts[name]++
}

func (o *oracle) report(t *testing.T) {
	t.Logf("%d messages: %v", len(o.messages)+len(o.queued), o.counts)
	for i, wrong := range o.wrong {
		if i == 20 {
			t.Errorf("and %d more", len(o.wrong)-i)
			break
		}
		t.Error(wrong)
	}
}
