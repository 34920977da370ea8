package metrics_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/metrics"
	"github.com/poolinit/poolinit/metrics/status"
)

// maxPage is the budget of the page's files together, in bytes: they are part of
// PID 1.
const maxPage = 25_600

// pageFiles are what a browser fetches for the page.
var pageFiles = []struct{ path, kind string }{
	{"/status", "text/html; charset=utf-8"},
	{"/status.css", "text/css; charset=utf-8"},
	{"/status.js", "text/javascript; charset=utf-8"},
}

// pageText fetches a file of the page as a browser does.
func pageText(t *testing.T, file string) (text string, header http.Header) {
	t.Helper()
	ln, err := metrics.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := metrics.New(ln, &metrics.Options{View: &status.View{}, Errors: func(err error) { t.Error(err) }})
	s.Serve()
	defer s.Close()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+s.Addr().String()+file, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirected") },
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v, %s", file, err, resp.Status)
	}
	return string(body), resp.Header
}

func TestPageIsServed(t *testing.T) {
	size := 0
	for _, file := range pageFiles {
		text, header := pageText(t, file.path)
		size += len(text)
		if got := header.Get("Content-Type"); got != file.kind {
			t.Errorf("%s is %q", file.path, got)
		}
		policy := header.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"} {
			if !slices.Contains(strings.Split(policy, "; "), part) {
				t.Errorf("%s: the policy is %q, without %s", file.path, policy, part)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
			t.Errorf("%s: the policy is %q", file.path, policy)
		}
		if header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s may be taken for something else", file.path)
		}
	}
	if size > maxPage {
		t.Errorf("the page has %d bytes: more than %d", size, maxPage)
	}
}

// forbidden is what the policy blocks, and what would let in what a worker says.
var forbidden = map[string]*regexp.Regexp{
	"another server":     regexp.MustCompile(`(?i)\b(https?|wss?):|['"(=]\s*//|@import|\burl\(`),
	"a style attribute":  regexp.MustCompile(`(?i)<[^>]*\sstyle\s*=|setAttribute\(\s*['"]style|cssText`),
	"a style element":    regexp.MustCompile(`(?i)<style`),
	"a script inside":    regexp.MustCompile(`(?i)<script(\s[^>]*)?>[^<]`),
	"an event attribute": regexp.MustCompile(`(?i)<[^>]*\son[a-z]+\s*=|setAttribute\(\s*['"]on`),
	"text as HTML":       regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|srcdoc|javascript:`),
	"text as a program":  regexp.MustCompile(`\beval\(|new Function|setTimeout\(\s*['"]|\bimport\(`),
}

func TestPageKeepsItsPolicy(t *testing.T) {
	for _, file := range pageFiles {
		text, _ := pageText(t, file.path)
		for what, pattern := range forbidden {
			if found := pattern.FindString(text); found != "" {
				t.Errorf("%s has %s: %q", file.path, what, found)
			}
		}
	}
}

// What the page refers to is there. Its addresses are relative, so that it works
// behind a proxy that adds a prefix.
func TestPageReferences(t *testing.T) {
	html, _ := pageText(t, "/status")
	references := regexp.MustCompile(`(?:href|src)="([^"]*)"`).FindAllStringSubmatch(html, -1)
	if len(references) < 3 {
		t.Errorf("only %q", references)
	}
	for _, reference := range references {
		switch to := reference[1]; to {
		case "#", "status.json", "metrics", "readyz", "livez":
		case "status.css", "status.js":
			pageText(t, path.Join("/", to))
		default:
			t.Errorf("the page refers to %q", to)
		}
	}
}

// Each id that the program looks for is in the page.
func TestPageHasElements(t *testing.T) {
	html, _ := pageText(t, "/status")
	program, _ := pageText(t, "/status.js")
	found := regexp.MustCompile(`(?:\$|put)\('([\w-]+)'`).FindAllStringSubmatch(program, -1)
	if len(found) < 20 {
		t.Errorf("only %d ids found", len(found))
	}
	for _, id := range found {
		if strings.Count(html, `id="`+id[1]+`"`) != 1 {
			t.Errorf("not one element %q", id[1])
		}
	}
}

// What the page reads from status.json is in there: names with an underscore are
// of the document, and nothing else's.
func TestPageKnowsDocument(t *testing.T) {
	known := map[string]bool{}
	jsonNames(reflect.TypeFor[status.Document](), known)
	program, _ := pageText(t, "/status.js")
	names := regexp.MustCompile(`\b[a-z]+(_[a-z]+)+\b`).FindAllString(program, -1)
	if len(names) < 20 {
		t.Errorf("only %q", names)
	}
	for _, name := range names {
		if !known[name] {
			t.Errorf("the page reads %s, which is not in the document", name)
		}
	}
}

// jsonNames collects the names that a type and its parts have in JSON.
func jsonNames(t reflect.Type, names map[string]bool) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		jsonNames(t.Elem(), names)
	case reflect.Struct:
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			names[name] = true
			if t.Field(i).Type != reflect.TypeFor[time.Time]() {
				jsonNames(t.Field(i).Type, names)
			}
		}
	}
}
