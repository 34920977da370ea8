package browser

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

func TestLoads(t *testing.T) {
	p := startMessages(t, nil, "-n", "3")
	f := p.front()
	tb := open(t, f.url, desktop)
	tb.until("document.title.startsWith('Ready')")
	tb.says("#state", "Ready")
	tb.says("#wanted", "of 3 ready")
	tb.says("#reload", "none")
	tb.says("#sources tbody tr td", p.messages)
	tb.until("document.querySelectorAll('#workers tbody tr').length === 3")
	for worker, w := range p.document().Workers {
		tb.says(cell(worker, "PID"), fmt.Sprint(w.PID))
		tb.says(cell(worker, "state"), "ready")
	}

	// It asks again and again, and for nothing but what there is: no icon.
	eventually(t, "three questions", func() (any, bool) {
		return f.asked(), len(slices.DeleteFunc(f.asked(), func(path string) bool { return path != "/status.json" })) >= 3
	})
	for _, path := range f.asked() {
		if !slices.Contains([]string{"/status", "/status.css", "/status.js", "/status.json"}, path) {
			t.Errorf("asked for %s", path)
		}
	}
	tb.picture("loads")
}

func TestShowsMessages(t *testing.T) {
	p := startMessages(t, nil, "-n", "1")
	tb := open(t, p.url, desktop)
	tb.until("document.title.startsWith('Ready')")
	eventually(t, "throughput", func() (any, bool) {
		p.send(strings.Fields(strings.Repeat("message ", 100))...)
		got := tb.text("#rate")
		return got, got != "" && got != "0" && got != "–"
	})
	tb.until("document.querySelector('#rates path').getAttribute('d').includes('h')")
	tb.until("document.querySelector(\"" + cell(0, "handled") + "\").textContent.trim() !== '0'")
	tb.says("#totals", "handled")
	tb.picture("messages")
}

// A pool without messages does not show parts that have to do with them.
func TestWithoutMessages(t *testing.T) {
	p := startPool(t, nil, "-n", "2")
	tb := open(t, p.url, desktop)
	tb.until("document.title.startsWith('Ready')")
	tb.until("document.querySelectorAll('#workers tbody tr').length === 2")
	for _, selector := range []string{"#rate", "#depth", "#totals", "#sources", cell(0, "handled")} {
		if eval[bool](tb, fmt.Sprintf("document.querySelector(%q).checkVisibility()", selector)) {
			t.Errorf("%s is there", selector)
		}
	}
	tb.picture("no-messages")
}

// What becomes of a worker is seen as it happens, in the same page.
func TestKilledWorker(t *testing.T) {
	p := startPool(t, nil, "-n", "3")
	tb := open(t, p.url, desktop)
	tb.says(cell(1, "state"), "ready")
	eval[any](tb, "window.same = document.querySelector('#workers tbody tr:nth-child(2)'); 0")
	old := p.document().Workers[1].PID
	tb.says(cell(1, "PID"), fmt.Sprint(old))

	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	tb.says(cell(1, "last exit"), "crash, SIGKILL")
	tb.says(cell(1, "state"), "ready")
	eventually(t, "another PID", func() (any, bool) {
		got := strings.TrimSpace(tb.text(cell(1, "PID")))
		return got, got == fmt.Sprint(p.document().Workers[1].PID) && got != fmt.Sprint(old)
	})
	tb.says(cell(1, "starts"), "2")
	if !eval[bool](tb, "window.same === document.querySelector('#workers tbody tr:nth-child(2)')") {
		t.Error("the row is another one")
	}

	// The whole story is behind a click.
	tb.click("#workers tbody tr:nth-child(2) button")
	tb.says("#workers .more", fmt.Sprintf("(crash), PID %d, peak memory", old))
	tb.until("document.querySelector('#workers tbody tr:nth-child(2) button').ariaExpanded === 'true'")
	tb.picture("killed")
	tb.click("#workers tbody tr:nth-child(2) button")
	tb.until("!document.querySelector('#workers .more').checkVisibility()")
}

func TestReload(t *testing.T) {
	p := startPool(t, nil, "-n", "2")
	tb := open(t, p.url, desktop)
	tb.says("#facts", "generation1")
	p.signal(syscall.SIGHUP)
	tb.says("#reload", "done")
	tb.says("#when", "generation 2")
	tb.says("#facts", "generation2")
	tb.says(cell(1, "gen."), "2")
	tb.says(cell(1, "last exit"), "reload")
}

// A worker status what it likes: it is shown, and nothing more.
func TestStatusTextIsText(t *testing.T) {
	for _, text := range []string{
		"<script>alert(1)</script>",
		`<img src=x onerror="alert(1)">`,
		`"><svg onload=alert(1)>`,
		"&lt;b&gt; ]]> ${alert(1)} {{alert(1)}}",
	} {
		t.Run(text, func(t *testing.T) {
			p := startPool(t, []string{"BROWSER_STATUS=" + text})
			tb := open(t, p.url, desktop)
			tb.says(cell(0, "status"), text)
			tb.click("#workers tbody button")
			tb.says("#workers .more", text)
			if n := eval[int](tb, "document.querySelectorAll('main script, main img, main svg svg, [onload], [onerror]').length"); n > 0 {
				t.Errorf("%d elements came of it", n)
			}
		})
	}
}

func TestPhone(t *testing.T) {
	long := strings.Repeat("a-status-without-a-blank/", 20)
	p := startMessages(t, []string{"BROWSER_STATUS=" + long}, "-n", "3")
	f := p.front()
	f.set(false, func(doc object) {
		everything(doc)
		doc["version"] = "v1.22.333-44-g5555555-dirty"
	})
	for _, l := range []look{phone, {320, 640, true, "dark"}, {820, 1100, true, "light"}, desktop, {1920, 1080, false, "light"}} {
		t.Run(fmt.Sprint(l.width), func(t *testing.T) {
			tb := open(t, f.url, l)
			tb.says(cell(0, "status"), long)
			tb.fits()
			tb.picture(fmt.Sprintf("everything-%d", l.width))
			tb.click("#workers tbody button")
			tb.says("#workers .more", long)
			tb.fits()
			eval[any](tb, "scrollTo(0, 600)")
			tb.picture(fmt.Sprintf("everything-%d-below", l.width))
		})
	}
}

// At any width the last exit is to be seen, whole, and so is how long a backoff
// lasts, and no table is wider than its box. There is no column for what no worker says.
func TestTableFits(t *testing.T) {
	p := startMessages(t, nil, "-n", "2")
	for status, delay := range map[string]float64{"": .524, "importing orders": 86399} { // as long as they get
		for _, messages := range []bool{true, false} {
			f := p.front()
			f.set(false, func(doc object) {
				now, _ := time.Parse(time.RFC3339Nano, doc["time"].(string))
				w := doc["workers"].([]any)[1].(object)
				w["state"], w["next_start_seconds"], w["status"] = "backoff", delay, status
				w["last_exit"] = object{"why": "crash", "pid": 4194299, "code": 0, "signal": "SIGSEGV", "time": now.Add(-2700 * time.Millisecond),
					"uptime_seconds": 12345, "peak_memory_bytes": 12 << 30, "text": "died of SIGSEGV after 3h25m45s (crash)"}
				if !messages {
					delete(doc, "queue")
				}
			})
			tb := open(t, f.url, desktop)
			tb.says(cell(1, "state"), map[bool]string{true: "524ms left", false: "23h 59m left"}[status == ""])
			for _, width := range []int64{360, 500, 800, 1000, 1001, 1024, 1200, 1230, 1231, 1600} {
				tb.do(chromedp.EmulateViewport(width, 800))
				tb.until(fmt.Sprintf("innerWidth === %d", width))
				for _, selector := range []string{cell(1, "state"), cell(1, "last exit"), "#workers", "#sources"} {
					if got := eval[[]int64](tb, fmt.Sprintf(fitsIn, selector)); got[0] > got[1] || got[2] > width {
						t.Errorf("status %q, messages %v, %d pixels: %s needs %d, has %d, and ends at %d", status, messages, width, selector, got[0], got[1], got[2])
					}
				}
				if width <= 1000 { // a card says what there is to say
					continue
				}
				if seen := eval[bool](tb, "document.querySelectorAll('#workers th')[10].checkVisibility()"); seen != (status != "") {
					t.Errorf("status %q, messages %v, %d pixels: the column of statuses is seen: %v", status, messages, width, seen)
				}
			}
		}
	}
}

// fitsIn is the width that an element needs, the one that it has, and where what is
// seen of it ends.
const fitsIn = `(e => [e.scrollWidth, e.clientWidth, Math.floor(e.getBoundingClientRect().right)])(document.querySelector(%q))`

// everything makes up all there may be to see.
func everything(doc object) {
	doc["pid"] = 4194303
	doc["orphans_reaped"] = 123456789
	now, _ := time.Parse(time.RFC3339Nano, doc["time"].(string))
	doc["reload"] = object{"state": "failed", "generation": 1234, "began": now.Add(-time.Hour), "seconds": 31.5, "replaced": 1,
		"reason": "worker 1: not ready within 30s: " + strings.Repeat("reason", 20)}
	queue := doc["queue"].(object)
	queue["messages"], queue["bytes"], queue["oldest_seconds"] = 1020, 64<<20, 3601.5
	source := doc["sources"].([]any)[0].(object)
	source["name"] = "unix:///" + strings.Repeat("directory/", 20)
	for i, name := range []string{"received", "handled", "failed", "retried", "given_up", "spooled", "lost", "turned_away"} {
		source[name] = 123456 * (i + 1)
	}
	w := doc["workers"].([]any)[1].(object)
	w["state"], w["failures_in_a_row"], w["next_start_seconds"] = "backoff", 12, 29.9
	w["successor_pid"], w["detached_pids"] = 4194302, []int{4194300, 4194301}
	w["in_hand"], w["held_seconds"], w["handled"] = 1024, 86399, 12345678901
	w["last_exit"] = object{"why": "message-timeout", "pid": 4194299, "code": 0, "signal": "SIGRTMIN+15", "time": now.Add(-time.Minute),
		"uptime_seconds": 12345, "peak_memory_bytes": 12 << 30, "text": "died of SIGRTMIN+15 after 3h25m45s (message-timeout)"}
}

func TestStandsOut(t *testing.T) {
	p := startMessages(t, nil, "-n", "2")
	f := p.front()
	tb := open(t, f.url, desktop)
	tb.says("#state", "Ready")
	if n := eval[int](tb, "document.querySelectorAll('.bad:not(path), .troubled').length"); n > 0 {
		t.Errorf("%d things stand out while all is well", n)
	}
	f.set(false, everything)
	tb.says("#state", "troubled workers: 1")
	tb.says(".bad #reload", "failed")
	tb.says("#why", "not ready within 30s")
	tb.says("#full:has(+ .bad)", "100 % of")
	tb.says("#totals .bad:last-of-type", "lost864,192")
	tb.says("#workers .troubled td.bad", "message-timeout, SIGRTMIN+15")
	tb.until("document.querySelectorAll('#totals .bad').length === 2")
	tb.until("document.querySelectorAll('#workers .troubled').length === 1")

	f.set(false, func(doc object) {
		doc["reload"] = object{"state": "running", "generation": 2, "began": doc["time"], "seconds": 4.5, "replaced": 1, "queued": true}
	})
	tb.says("#state", "reload running")
	tb.says("#replaced", "1 of 2")
	tb.says("#when", "another follows")
	tb.until("document.querySelector('#progress i').style.width === '50%'")

	f.set(false, func(doc object) { doc["ready"], doc["reason"] = false, "no worker is ready" })
	tb.says("#state", "Not ready no worker is ready")
}

func TestDark(t *testing.T) {
	p := startPool(t, nil)
	for name, l := range map[string]look{"light": desktop, "dark": night} {
		t.Run(name, func(t *testing.T) {
			tb := open(t, p.url, l)
			tb.says("#state", "Ready")
			tb.picture(name)
			for _, selector := range []string{"body", "header", "#workers tbody td b", "#workers th", "section h2"} {
				contrast, dark := eval[float64](tb, fmt.Sprintf(contrastOf, selector)), eval[bool](tb, fmt.Sprintf(isDark, selector))
				if contrast < 4.5 {
					t.Errorf("%s has a contrast of %.1f", selector, contrast)
				}
				if dark != (name == "dark") {
					t.Errorf("the background of %s is dark: %v", selector, dark)
				}
			}
		})
	}
}

// The colours of an element and of what is behind it, as WCAG measures them.
const (
	luminances = `(() => {
		const luminance = color => {
			const [r, g, b] = color.match(/[\d.]+/g).map(x => x / 255).map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
			return .2126 * r + .7152 * g + .0722 * b;
		};
		const e = document.querySelector(%q);
		let behind = e;
		while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentNode;
		return [luminance(getComputedStyle(e).color), luminance(getComputedStyle(behind).backgroundColor)];
	})()`
	contrastOf = `(all => (Math.max(...all) + .05) / (Math.min(...all) + .05))(` + luminances + `)`
	isDark     = luminances + `[1] < .2`
)

func TestStops(t *testing.T) {
	p := startMessages(t, []string{"BROWSER_DEAF=1"}, "-n", "2", "--stop-timeout", "5m")
	tb := open(t, p.url, phone)
	tb.says("#state", "Ready")
	p.signal(syscall.SIGTERM)
	tb.says("#state", "Stopping SIGTERM")
	tb.says("#legend", "2 stopping")
	tb.picture("stopping")

	if out, err := exec.Command(poolinit(t), "stop", "--now", "--pid", strconv.Itoa(p.cmd.Process.Pid)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	<-p.exited
	tb.says("#state", "No answer since ")
	tb.says("#state", "it was stopping: SIGTERM")
	tb.says("#ago", "trying again")
	tb.until("document.title.startsWith('No answer')")
	tb.until("document.body.classList.contains('gone')")
	tb.picture("gone")
	tb.forgiveOnly("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
}

// Who comes back is shown again, without a reload. Another binary brings its own
// page along.
func TestComesBack(t *testing.T) {
	p := startPool(t, nil)
	f := p.front()
	tb := open(t, f.url, desktop)
	tb.says("#state", "Ready")
	eval[any](tb, "window.same = true")
	f.set(true, nil)
	tb.says("#state", "(HTTP 502); below is how it was")
	f.set(false, nil)
	tb.says("#state", "Ready")
	tb.until("window.same && document.querySelector('#ago').textContent === ''")

	f.set(false, func(doc object) { doc["version"] = "v2" })
	tb.until("window.same === undefined")
	tb.says("#facts", "v2")
	tb.forgiveOnly("502")
}

// Nobody is asked while nobody looks.
func TestHidden(t *testing.T) {
	p := startPool(t, nil)
	f := p.front()
	tb := open(t, f.url, desktop)
	tb.says("#state", "Ready")
	hide := `Object.defineProperty(document, 'hidden', { configurable: true, get: () => %v }); document.dispatchEvent(new Event('visibilitychange'))`
	eval[any](tb, fmt.Sprintf(hide, true))
	tb.until("!asking") // what was under way
	// The icon's own question, for the page, may come late.
	questions := func() (n int) {
		for _, path := range f.asked() {
			if strings.HasPrefix(path, "/status.json") {
				n++
			}
		}
		return n
	}
	before := questions()
	for range 5 {
		eval[any](tb, "poll(); 0") // what the timer does
	}
	if after := questions(); after != before {
		t.Errorf("%d questions from a page that is hidden", after-before)
	}
	eval[any](tb, fmt.Sprintf(hide, false))
	eventually(t, "a question", func() (any, bool) { return nil, questions() > before })
}

func TestThousandWorkers(t *testing.T) {
	const n = 1000
	p := startMessages(t, nil)
	f := p.front()
	f.set(false, func(doc object) {
		one := doc["workers"].([]any)[0].(object)
		all := make([]object, n)
		for i := range all {
			all[i] = object{}
			for k, v := range one {
				all[i][k] = v
			}
			all[i]["id"], all[i]["pid"], all[i]["memory_bytes"] = i, 1000+i, (i*7919%n+1)<<20
			all[i]["handled"] = (time.Now().UnixMilli() + int64(i)) % 1e6 // something changes each time
			if i%500 == 7 {
				all[i]["failures_in_a_row"] = 1
			}
		}
		doc["workers"], doc["workers_wanted"] = all, n
	})
	tb := open(t, f.url, desktop)
	tb.says("#wanted", "of 1,000 ready")
	tb.until("document.querySelectorAll('#workers tbody tr').length === 1000")
	eval[any](tb, "window.same = document.querySelector('#workers tbody tr:nth-child(500)'); 0")
	took := eval[float64](tb, "(() => { const began = performance.now(); show(doc); document.body.offsetHeight; return performance.now() - began })()")
	t.Logf("it takes %.0f ms to show %d workers again", took, n)
	handled := tb.text(cell(499, "handled"))
	eventually(t, "a change", func() (any, bool) { return handled, tb.text(cell(499, "handled")) != handled })
	if !eval[bool](tb, "window.same === document.querySelector('#workers tbody tr:nth-child(500)')") {
		t.Error("the row is another one")
	}
	tb.picture("thousand")

	tb.click("#filters button:nth-child(2)")
	tb.until("[...document.querySelectorAll('#workers tbody tr')].filter(tr => tr.checkVisibility()).length === 2")
	tb.click("#filters button:nth-child(3)")
	tb.says("#nobody", "No worker is busy.")
	tb.click("#filters button:nth-child(1)")

	tb.click("#workers th:nth-child(7) button") // memory
	tb.until("document.querySelector('#workers th:nth-child(7)').ariaSort === 'ascending'")
	tb.says(cell(0, "memory"), "1.0 GiB")
	tb.says(cell(n-1, "memory"), "1.0 MiB")
	tb.fits()
}
