package metrics

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestHostIsChecked(t *testing.T) {
	f := newFake(1)
	f.options.Hosts = []string{"metrics.example", "Pool"}
	s := serve(t, f)
	for host, want := range map[string]int{
		"localhost": 200, "localhost:9090": 200, "LOCALHOST.": 200, "127.0.0.1:1": 200, "10.1.2.3": 200, "[::1]:9090": 200, "[fe80::1%25eth0]": 200, "": 200,
		"metrics.example": 200, "METRICS.example:80": 200, "pool:9090": 200, "pool.": 200,
		"evil.example": 421, "evil.example:9090": 421, "localhost.evil.example": 421, "x.localhost": 421, "127.0.0.1.evil.example": 421, "1.2.3.4.5": 421,
		"metrics": 421, "a.metrics.example": 421, "0x7f.1": 421,
	} {
		for _, path := range []string{"/status.json", "/status", "/metrics", "/queue.json", "/"} {
			if got, body := raw(t, s, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); got.StatusCode != want && (path != "/" || got.StatusCode != http.StatusFound) {
				t.Errorf("%s of host %q: %d, want %d", path, host, got.StatusCode, want)
			} else if want == 421 && !strings.Contains(body, "or start poolinit with --http-host ") {
				t.Errorf("it is told %q", body)
			}
		}
		if got, _ := raw(t, s, "GET /livez HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); got.StatusCode != 200 {
			t.Errorf("a probe with the host %q: %d", host, got.StatusCode)
		}
	}
	nc := dial(t, s)
	write(t, nc, "GET /status.json HTTP/1.0\r\n\r\n") // without a Host, as only programs do
	if text, err := io.ReadAll(nc); err != nil || !strings.HasPrefix(string(text), "HTTP/1.0 200 ") {
		t.Errorf("%.100q, %v", text, err)
	}
}

func FuzzHost(f *testing.F) {
	for _, host := range []string{"localhost", "localhost:80", "[::1]:9090", "127.0.0.1", "evil.example:1", "pool.", "[", "]:", "a:b:c", "%", ""} {
		f.Add(host)
	}
	s := checkHost([]string{"pool"}, http.NotFoundHandler())
	f.Fuzz(func(t *testing.T, host string) {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, &http.Request{Host: host, URL: &url.URL{Path: "/status"}})
		name := strings.ToLower(host)
		known := strings.HasPrefix(name, "localhost") || strings.HasPrefix(name, "pool") || strings.HasPrefix(name, "[localhost") || strings.HasPrefix(name, "[pool")
		if w.Code == http.StatusNotFound && !known && strings.Trim(name, "[]:.0123456789abcdef%") == name && name != "" {
			t.Errorf("%q is allowed", host)
		}
	})
}
