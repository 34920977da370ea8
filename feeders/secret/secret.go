// Package secret keeps passwords, and URLs that have one in them, out of logs. A
// Text prints as three asterisks however it is printed, and a Filter takes what a
// library says about an error and replaces each secret in it.
package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Hidden is what stands in the place of a secret.
const Hidden = "***"

// A Text is a secret. To use it, say Reveal.
type Text string

// Reveal returns the secret itself.
func (t Text) Reveal() string { return string(t) }

// Format prints Hidden for every verb.
func (t Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Hidden) }

// String returns Hidden.
func (t Text) String() string { return Hidden }

// MarshalText returns Hidden, also in JSON.
func (t Text) MarshalText() ([]byte, error) { return []byte(Hidden), nil }

// UnmarshalText takes the secret.
func (t *Text) UnmarshalText(b []byte) error {
	*t = Text(b)
	return nil
}

// LogValue returns Hidden.
func (t Text) LogValue() slog.Value { return slog.StringValue(Hidden) }

// A Filter is a writer that replaces secrets in what it passes on: as they are,
// and as they stand in URLs, in JSON and in Go's quotes. Each call of Write has to
// be a whole line. The zero value knows no secrets.
type Filter struct {
	To io.Writer

	mu    sync.Mutex
	forms []string // longest first, so that none is replaced in part
}

// Add makes secrets known.
func (f *Filter) Add(secrets ...Text) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range secrets {
		for _, form := range forms(s.Reveal()) {
			if form != "" && !slices.Contains(f.forms, form) {
				f.forms = append(f.forms, form)
			}
		}
	}
	slices.SortFunc(f.forms, func(a, b string) int { return len(b) - len(a) })
}

// forms are the ways in which a secret is written.
func forms(s string) []string {
	quoted := fmt.Sprintf("%q", s)
	coded, _ := json.Marshal(s) // a string always has a form in JSON
	return []string{s, url.QueryEscape(s), url.PathEscape(s), url.UserPassword("", s).String()[1:],
		strings.ToLower(url.QueryEscape(s)), strings.ToLower(url.PathEscape(s)),
		quoted[1 : len(quoted)-1], string(coded[1 : len(coded)-1])}
}

// Clean returns a text without the secrets.
func (f *Filter) Clean(text string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, form := range f.forms {
		text = strings.ReplaceAll(text, form, Hidden)
	}
	return text
}

// Write passes a line on, without the secrets.
func (f *Filter) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	clean := p
	for _, form := range f.forms {
		clean = bytes.ReplaceAll(clean, []byte(form), []byte(Hidden))
	}
	if _, err := f.To.Write(clean); err != nil {
		return 0, err
	}
	return len(p), nil
}
