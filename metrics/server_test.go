package metrics

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/race"
	"github.com/poolinit/poolinit/supervisor"
)

// serve starts a server on loopback.
func serve(t *testing.T, f *fake) *Server {
	t.Helper()
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(ln, &f.options)
	s.Serve()
	t.Cleanup(s.Close)
	return s
}

// dial connects; the connection cannot hold up the test for ever.
func dial(t *testing.T, s *Server) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// raw sends bytes and returns the answer, whose body is read.
func raw(t *testing.T, s *Server, request string) (*http.Response, string) {
	t.Helper()
	nc := dial(t, s)
	defer nc.Close()
	go io.WriteString(nc, request) // ends with the connection; the server need not read it all
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatalf("%.100q: %v", request, err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // cut short if the server has had enough
	return resp, string(body)
}

// alive fails unless the server answers.
func alive(t *testing.T, s *Server) {
	t.Helper()
	if resp, _ := raw(t, s, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); resp.StatusCode != 200 {
		t.Errorf("/readyz: %d", resp.StatusCode)
	}
}

// No path leads to a file, nor to another host.
func TestPathTricks(t *testing.T) {
	s := serve(t, newFake(1))
	for path, want := range map[string]string{
		"//metrics":                       "307 /metrics",
		"/./metrics":                      "307 /metrics",
		"/x/../metrics":                   "307 /metrics",
		"/metrics/":                       "404",
		"/metrics/x":                      "404",
		"/METRICS":                        "404",
		"/metrics%00":                     "404",
		"/metrics?name[]=none&x=%zz;y":    "200",
		"/%6detrics":                      "200",
		"/../etc/passwd":                  "307 /etc/passwd",
		"/etc/passwd":                     "404",
		"/..%2f..%2fetc%2fpasswd":         "404",
		"/%2e%2e/%2e%2e/etc/passwd":       "404",
		"/status.js/../../../etc/passwd":  "307 /etc/passwd",
		"/page/status.html":               "404",
		"/debug/pprof/":                   "404",
		"//evil.example/":                 "307 /evil.example/",
		"//evil.example/%2e%2e":           "307 /evil.example/%252e%252e",
		"/\\evil.example/":                "404",
		"/.//evil.example":                "307 /evil.example",
		"http://evil.example/metrics":     "421",
		"http://evil.example//x.example/": "421",
		"*":                               "400",
		"metrics":                         "400",
		"/" + strings.Repeat("a", 8000):   "404",
	} {
		resp, _ := raw(t, s, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		got := fmt.Sprint(resp.StatusCode)
		if to := resp.Header.Get("Location"); to != "" {
			got += " " + to
		}
		if got != want {
			t.Errorf("%.60s: %s, want %s", path, got, want)
		}
	}
}

// Bytes that are not a request get a short answer, or none, and do no harm.
func TestBadRequests(t *testing.T) {
	s := serve(t, newFake(1))
	long := strings.Repeat("x", 64<<10)
	for request, want := range map[string]int{
		"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Huge: " + long + "\r\n\r\n":                       431,
		"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("X-Many: 1\r\n", 8<<10) + "\r\n": 431,
		"GET /" + long + " HTTP/1.1\r\nHost: localhost\r\n\r\n":                                          431,
		"GET /metrics HTTP/1.1\r\n\r\n":                                                                  400,
		"GET /metrics HTTP/9.9\r\nHost: localhost\r\n\r\n":                                               505,
		"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n":                            400,
		"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n":                         400,
		"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n":     400,
		"GET /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: strange\r\n\r\n":                 501,
		"GET /metrics HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n":                              400,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                                               400,
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n":                                           400,
		"hello\r\n\r\n": 400,
		"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\nConnection: close\r\n\r\n":                   405,
		"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\nConnection: close\r\n\r\n" + long[:9000]:           405,
		"PUT /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n": 405,
		"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n":                                         405,
		"GET /metrics HTTP/1.0\r\n\r\n": 200,
		"GET /metrics HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: \r\n\r\nGET /livez HTTP/1.0\r\n\r\n": 200,
		"GET /metrics HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 10\r\nConnection: close\r\n\r\n":                                    200,
	} {
		if resp, body := raw(t, s, request); resp.StatusCode != want {
			t.Errorf("%.120q: %d, want %d: %.80s", request, resp.StatusCode, want, body)
		}
	}
	alive(t, s)
}

// Clients that are silent, slow or deaf, however many there are, do not keep a probe
// waiting. They replace each other.
func TestCrowdsDoNotDelayProbes(t *testing.T) {
	for name, says := range map[string]string{
		"silent": "", "slow": "GET /livez HTTP/1.1\r\nX-Slow: ", "idle": "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"deaf": strings.Repeat("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 500),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "deaf" && race.On {
				return // half a minute of CPU for pages that the race detector makes slow
			}
			s := serve(t, newFake(1, "tcp://a:1"))
			for range maxConnections + 150 {
				nc := dial(t, s)
				go io.WriteString(nc, says) // ends with the connection
			}
			for range 3 {
				began := time.Now()
				alive(t, s)
				if took := time.Since(began); took > headerTime-time.Second { // as long as it was before
					t.Errorf("a probe waited for %v", took)
				}
			}
			if n := s.listener.Taken(); n > maxConnections {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// Connections that are kept open for a next request make room for others.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	s := serve(t, newFake(1))
	for range maxConnections {
		nc := dial(t, s)
		write(t, nc, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	alive(t, s)
	if took := time.Since(began); took > headerTime {
		t.Errorf("the next one waited for %v", took)
	}
}

// A thousand scrapes at once: each is answered, or told to come again.
func TestManyScrapes(t *testing.T) {
	f := newFake(16, "tcp://a:1")
	s := serve(t, f)
	client := &http.Client{Timeout: testkit.Patience, Transport: &http.Transport{MaxIdleConnsPerHost: maxConnections - 6, MaxConnsPerHost: maxConnections - 6}}
	defer client.CloseIdleConnections()
	var scrapes sync.WaitGroup
	var good, turned atomic.Int32
	for range 1000 {
		scrapes.Go(func() {
			resp, err := client.Get("http://" + s.Addr().String() + "/metrics")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			switch {
			case err != nil:
				t.Error(err)
			case resp.StatusCode == 200 && strings.Contains(string(body), "\npoolinit_workers_wanted 16\n"):
				good.Add(1)
			case resp.StatusCode == 503:
				turned.Add(1)
			default:
				t.Errorf("%d: %.100s", resp.StatusCode, body)
			}
		})
	}
	scrapes.Wait()
	t.Logf("%d answered, %d turned away", good.Load(), turned.Load())
	if good.Load() < maxScrapes {
		t.Errorf("only %d were answered", good.Load())
	}
	client.CloseIdleConnections()
	alive(t, s)
}

// The ninth scrape at a time is turned away, and health is not.
func TestScrapeLimit(t *testing.T) {
	f := newFake(1)
	inside, leave := make(chan struct{}), make(chan struct{})
	stats := f.pool
	f.options.View.Pool = &fakePool{func() supervisor.Stats {
		inside <- struct{}{}
		<-leave
		return stats
	}}
	s := f.server()
	var scrapes sync.WaitGroup
	for range maxScrapes {
		scrapes.Go(func() {
			if w := get(s, "/metrics"); w.Code != 200 {
				t.Errorf("%d", w.Code)
			}
		})
	}
	for range maxScrapes {
		<-inside
	}
	if w := get(s, "/metrics"); w.Code != 503 {
		t.Errorf("scrape %d: %d", maxScrapes+1, w.Code)
	}
	if w := get(s, "/livez"); w.Code != 200 {
		t.Errorf("/livez: %d", w.Code)
	}
	close(leave)
	scrapes.Wait()
	scrapes.Go(func() { <-inside })
	if w := get(s, "/metrics"); w.Code != 200 {
		t.Errorf("with room again: %d", w.Code)
	}
	scrapes.Wait()
}

// A pipeListener has connections without a network, whose time is the bubble's.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial() net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- theirs
	return ours
}

// gone returns how long it takes until the server has closed a connection.
func gone(t *testing.T, nc net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	if _, err := io.Copy(io.Discard, nc); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	return time.Since(began)
}

// Whoever is slow is cut off, and gives his place back.
func TestSlowClients(t *testing.T) {
	for name, tt := range map[string]struct {
		begin func(*testing.T, net.Conn)
		want  time.Duration
	}{
		"says nothing": {func(*testing.T, net.Conn) {}, headerTime},
		"half a head":  {func(t *testing.T, nc net.Conn) { write(t, nc, "GET /metrics HTTP/1.1\r\nHo") }, headerTime},
		"a body that hangs": {func(t *testing.T, nc net.Conn) {
			write(t, nc, "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
		}, requestTime},
		"reads nothing": {func(t *testing.T, nc net.Conn) {
			write(t, nc, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
			if _, err := nc.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
			time.Sleep(answerTime + time.Second)
		}, 0},
		"between two requests": {func(t *testing.T, nc net.Conn) {
			write(t, nc, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
			if _, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil {
				t.Error(err)
			}
		}, idleTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pipes := newPipes()
				s := New(pipes, &newFake(64, "tcp://a:1").options)
				s.Serve()
				nc := pipes.dial()
				tt.begin(t, nc)
				if took := gone(t, nc); took > tt.want || took < tt.want-headerTime {
					t.Errorf("closed after %v, want %v", took, tt.want)
				}
				synctest.Wait()
				if n := s.listener.Taken(); n != 0 {
					t.Errorf("%d places are taken", n)
				}
				s.Close()
			})
		})
	}
}

func write(t *testing.T, nc net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(nc, text); err != nil {
		t.Error(err)
	}
}

// Close does not wait for clients that do not read or send nothing.
func TestCloseWithClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipes := newPipes()
		s := New(pipes, &newFake(64, "tcp://a:1").options)
		s.Serve()
		silent, stuck, idle := pipes.dial(), pipes.dial(), pipes.dial()
		write(t, stuck, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
		write(t, idle, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(idle), nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		began := time.Now()
		s.Close()
		if took := time.Since(began); took > closeTime+10*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		for _, nc := range []net.Conn{silent, stuck, idle} {
			if took := gone(t, nc); took > 0 {
				t.Errorf("open for another %v", took)
			}
		}
	})
}

// An answer under way when the end comes is finished.
func TestCloseFinishesAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1)
		stats := f.pool
		f.options.View.Pool = &fakePool{func() supervisor.Stats {
			time.Sleep(closeTime / 2)
			return stats
		}}
		pipes := newPipes()
		s := New(pipes, &f.options)
		s.Serve()
		nc := pipes.dial()
		write(t, nc, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
		var reader sync.WaitGroup
		reader.Go(func() {
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Error(err)
				return
			}
			if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), "poolinit_ready 1") {
				t.Errorf("%v: %.100s", err, body)
			}
		})
		synctest.Wait() // it is under way
		s.Close()
		reader.Wait()
	})
}

// What cannot be bound is an error that says so; what is bound can be closed
// without having served.
func TestListen(t *testing.T) {
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(ln, &newFake(1).options)
	if _, err := Listen(s.Addr().String()); err == nil || !strings.HasPrefix(err.Error(), "cannot serve HTTP: listen tcp 127.0.0.1:") {
		t.Errorf("a port that is taken: %v", err)
	}
	for _, addr := range []string{"127.0.0.1:99999", "no-such-host.invalid:1", "203.0.113.1:1", "nonsense", ""} {
		if bad, err := Listen(addr); err == nil && addr != "" {
			bad.Close()
			t.Errorf("%q is bound", addr)
		} else if err == nil {
			bad.Close()
		}
	}
	s.Close()
	again, err := Listen(s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// Errors of the libraries come to one function, and not at any length.
func TestErrors(t *testing.T) {
	f := newFake(1)
	var mu sync.Mutex
	var all []string
	f.options.Errors = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, err.Error())
	}
	f.options.View.Pool = &fakePool{func() supervisor.Stats { panic("the pool is gone") }}
	s := serve(t, f)
	nc := dial(t, s)
	write(t, nc, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
	_ = gone(t, nc)
	s.Close()
	mu.Lock()
	defer mu.Unlock()
	if len(all) != 1 || !strings.Contains(all[0], "the pool is gone") || len(all[0]) > maxErrorText+10 {
		t.Errorf("%q", all)
	}
}
