package testkit

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// An Output collects what a program or a logger writes. It may be read while it
// grows. The zero value is ready.
type Output struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write adds to the text. It never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// String returns the text so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Size returns the number of bytes so far.
func (o *Output) Size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Len()
}

// Lines returns the lines so far that have ended.
func (o *Output) Lines() []string {
	got := o.String()
	end := strings.LastIndexByte(got, '\n')
	if end < 0 {
		return nil
	}
	return strings.Split(got[:end], "\n")
}

// Expect waits until the text contains these words.
func (o *Output) Expect(t testing.TB, words string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("output %q", words), func() (any, bool) {
		got := o.String()
		return fmt.Sprintf("%q", got), strings.Contains(got, words)
	})
}

// ExpectTimes waits until the text contains these words this many times. More
// often is a failure.
func (o *Output) ExpectTimes(t testing.TB, words string, times int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("output %q, %d times", words, times), func() (any, bool) {
		got := o.String()
		return fmt.Sprintf("%q", got), strings.Count(got, words) == times
	})
}
