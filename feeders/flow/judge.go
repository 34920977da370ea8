package flow

import (
	"math/rand/v2"
	"strings"
	"time"

	"github.com/poolinit/poolinit/feeders/link"
)

// A verdict is what an answer of the pool means.
type verdict struct {
	action  Action // Ack, Return, Dead, or Delayed for a failed attempt
	reason  link.Code
	text    string
	after   time.Duration // of Delayed: exactly so long; negative: Flow's own delay
	counted bool          // of Return
	stop    bool          // take no more
}

// judge is the table of docs/feeders.md, "Answers".
func judge(a link.Answer) verdict {
	if !a.Failed {
		return verdict{action: Ack}
	}
	code, text := a.Failure()
	switch code {
	case link.Refused, link.TooBig, link.NotALine:
		return verdict{action: Dead, reason: code, text: text}
	case link.Stopping:
		return verdict{action: Return, reason: code, stop: true}
	case link.Interrupted:
		return verdict{action: Return, reason: code, counted: true}
	case link.Retry:
		if after, rest, ok := cutDelay(text); ok {
			return verdict{action: Delayed, text: rest, after: after}
		}
	}
	if code != link.GivenUp && code != "" {
		text = string(code) + ": " + text
	}
	return verdict{action: Delayed, text: text, after: -1}
}

// cutDelay takes the delay off "30s: text".
func cutDelay(text string) (time.Duration, string, bool) {
	delay, rest, _ := strings.Cut(text, ": ")
	d, err := time.ParseDuration(strings.TrimSuffix(delay, ":"))
	return d, rest, err == nil && d >= 0
}

// backoff is a delay that doubles from least, at most up to most, +-20 %. n counts
// from 1.
func backoff(n int, least, most time.Duration) time.Duration {
	d := most
	if shift := n - 1; shift < 40 && least<<shift>>shift == least {
		d = min(least<<shift, most)
	}
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
