package browser

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// A look is how somebody looks at the page.
type look struct {
	width, height int64
	mobile        bool
	scheme        string // light or dark
}

var (
	desktop = look{1280, 800, false, "light"}
	night   = look{1280, 800, false, "dark"}
	phone   = look{390, 844, true, "light"}
)

// A tab is a window of the browser with the page.
type tab struct {
	t     testing.TB
	ctx   context.Context
	width int64

	mu         sync.Mutex
	complaints []string // console errors, exceptions, violations of the policy, dialogs, failed requests
}

// open opens /status. At the end of the test the browser must have had nothing to
// complain of, but for what forgive took away.
func open(t testing.TB, url string, l look) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(chromium(t), chromedp.WithNewBrowserContext(), chromedp.WithNewWindow(true))
	tb := &tab{t: t, ctx: ctx, width: l.width}
	t.Cleanup(func() {
		defer cancel()
		for _, complaint := range tb.forgive() {
			t.Errorf("the browser complains: %s", complaint)
		}
	})
	if err := chromedp.Listen(ctx, tb.listen); err != nil {
		t.Fatal(err)
	}
	options := []chromedp.EmulateViewportOption{}
	if l.mobile {
		options = append(options, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	tb.do(chromedp.EmulateViewport(l.width, l.height, options...))
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}}}
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
		t.Fatal(err)
	}
	tb.do(chromedp.Navigate(url + "/status"))
	return tb
}

// listen collects complaints. It is called where nothing may block.
func (tb *tab) listen(ev any) {
	complain := func(format string, args ...any) {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		tb.complaints = append(tb.complaints, fmt.Sprintf(format, args...))
	}
	switch ev := ev.(type) {
	case *runtime.EventConsoleAPICalled:
		complain("console.%s", ev.Type)
	case *runtime.EventExceptionThrown:
		complain("exception: %s %v", ev.ExceptionDetails.Text, ev.ExceptionDetails.Exception)
	case *log.EventEntryAdded:
		complain("%s: %s %s", ev.Entry.Source, ev.Entry.Text, ev.Entry.URL)
	case *page.EventJavascriptDialogOpening:
		complain("dialog: %s", ev.Message)
	case *network.EventResponseReceived:
		if ev.Response.Status >= 400 {
			complain("%s: status %d", ev.Response.URL, ev.Response.Status)
		}
	}
}

// forgive takes the complaints away.
func (tb *tab) forgive() []string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	complaints := tb.complaints
	tb.complaints = nil
	return complaints
}

func (tb *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		tb.t.Fatal(err)
	}
}

// attempt returns what an expression of JavaScript is in the page. While the page
// loads that is an error.
func attempt[T any](tb *tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression))
}

// eval is attempt for a page that is there.
func eval[T any](tb *tab, expression string) T {
	tb.t.Helper()
	v, err := attempt[T](tb, expression)
	if err != nil {
		tb.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits until an expression is true.
func (tb *tab) until(expression string) {
	tb.t.Helper()
	eventually(tb.t, expression, func() (any, bool) {
		got, err := attempt[bool](tb, expression)
		if got || err != nil {
			return err, got
		}
		shown, _ := attempt[string](tb, "document.body.innerText")
		return shown, false
	})
}

// says waits until an element has this text in it.
func (tb *tab) says(selector, text string) {
	tb.t.Helper()
	eventually(tb.t, fmt.Sprintf("%q in %s", text, selector), func() (any, bool) {
		got, err := attempt[string](tb, textOf(selector))
		if err != nil {
			return err, false
		}
		return got, strings.Contains(got, text)
	})
}

// text is that of an element, or "" if there is none.
func (tb *tab) text(selector string) string {
	tb.t.Helper()
	return eval[string](tb, textOf(selector))
}

func textOf(selector string) string {
	return fmt.Sprintf("document.querySelector(%q)?.textContent ?? ''", selector)
}

// cell is a selector for a worker's cell.
func cell(worker int, name string) string {
	return fmt.Sprintf("#workers tbody tr:nth-child(%d) td[data-name='%s']", worker+1, name)
}

// click clicks on an element.
func (tb *tab) click(selector string) {
	tb.t.Helper()
	eval[any](tb, fmt.Sprintf("document.querySelector(%q).click()", selector))
}

// fits checks that nothing is wider than the window. (A phone's innerWidth grows
// with what is too wide.)
func (tb *tab) fits() {
	tb.t.Helper()
	got := eval[[]int64](tb, "[document.documentElement.scrollWidth, innerWidth]")
	if max(got[0], got[1]) > tb.width {
		wide := eval[[]string](tb, fmt.Sprintf(`[...document.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > %d)
			.map(e => e.tagName + '#' + e.id + '.' + e.className).slice(0, 20)`, tb.width))
		tb.t.Errorf("%d pixels wide in a window of %d: %q", got, tb.width, wide)
	}
}

// picture writes a picture of what is to be seen, if SCREENSHOTS wants that.
func (tb *tab) picture(name string) {
	tb.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(tb.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	}
	if err != nil {
		tb.t.Errorf("no picture: %v", err)
	}
}

// forgiveOnly takes away complaints that have one of these texts in them: what a
// test brings about itself.
func (tb *tab) forgiveOnly(texts ...string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.complaints = slices.DeleteFunc(tb.complaints, func(complaint string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(complaint, text) })
	})
}
