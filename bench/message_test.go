package bench

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A load is what clients do: so many connections, with so many messages of so
// many bytes in flight on each; fresh: one message a connection.
type load struct {
	conns, flight, size int
	fresh               bool
}

// measured is how long one measurement takes. Server and limit take turns.
const measured = 2 * time.Second

// rate runs the load and returns messages a second.
func (l load) rate(b *testing.B, addr string) float64 {
	b.Helper()
	var total atomic.Int64
	var clients sync.WaitGroup
	end := time.Now().Add(measured)
	for range l.conns {
		clients.Go(func() {
			n, err := l.client(addr, end)
			total.Add(n)
			if err != nil {
				b.Error(err)
			}
		})
	}
	clients.Wait()
	return float64(total.Load()) / measured.Seconds()
}

func (l load) client(addr string, end time.Time) (n int64, err error) {
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(l.size)), make([]byte, l.size)...)
	if l.fresh {
		for time.Now().Before(end) {
			if err := oneMessage(addr, frame); err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	var batch []byte
	for range l.flight {
		batch = append(batch, frame...)
	}
	in := bufio.NewReaderSize(nc, 64<<10)
	for time.Now().Before(end) {
		if _, err := nc.Write(batch); err != nil {
			return n, err
		}
		if _, err := in.Discard(len(batch)); err != nil {
			return n, err
		}
		n += int64(l.flight)
	}
	return n, nil
}

func oneMessage(addr string, frame []byte) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	if _, err := nc.Write(frame); err != nil {
		return err
	}
	_, err = io.ReadFull(nc, make([]byte, len(frame)))
	return err
}

// echoServer is the limit: a Go server that answers each frame with itself, a
// goroutine a connection, with nobody behind it. It is a process of its own.
func echoServer(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		nc, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() { // ends with its client
			defer nc.Close()
			in, out := bufio.NewReaderSize(nc, 64<<10), bufio.NewWriterSize(nc, 64<<10)
			var frame []byte
			for {
				header, err := in.Peek(4)
				if err != nil {
					return
				}
				n := 4 + int(binary.BigEndian.Uint32(header))
				if cap(frame) < n {
					frame = make([]byte, n)
				}
				if _, err := io.ReadFull(in, frame[:n]); err != nil {
					return
				}
				_, _ = out.Write(frame[:n]) // Flush has the error
				if in.Buffered() < 4 && out.Flush() != nil {
					return
				}
			}
		}()
	}
}

// serverCPU is the CPU time of a process and all below it.
func serverCPU(pid int) (sum time.Duration) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // ended meanwhile: 0
		words := strings.Fields(string(text))
		if len(words) > 0 {
			ns, _ := strconv.ParseInt(words[0], 10, 64)
			sum += time.Duration(ns)
		}
	}
	for _, child := range children(pid) {
		sum += serverCPU(child)
	}
	return sum
}

// serve starts a server and returns its PID and a free address that it listens
// on; command makes the command line for that.
func serve(b *testing.B, env []string, command func(addr string) []string) (pid int, addr string) {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr = ln.Addr().String()
	ln.Close()
	words := command(addr)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
			return cmd.Process.Pid, addr
		}
		if time.Now().After(deadline) {
			b.Fatalf("%v does not listen on %s", words, addr)
		}
	}
}

// echoPool starts poolinit with two workers.
func echoPool(b *testing.B, params string, worker ...string) (pid int, addr string) {
	b.Helper()
	ours := built(b).poolinit
	return serve(b, nil, func(addr string) []string {
		return append([]string{ours, "-n", "2", "--log-level", "warn", "--listen", "tcp://" + addr + params, "--"}, worker...)
	})
}

func compiled(b *testing.B, source string) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "program")
	if out, err := exec.Command("gcc", "-O2", "-static", "-o", path, source).CombinedOutput(); err != nil {
		b.Fatalf("gcc: %v\n%s", err, out)
	}
	return path
}

// compare measures server and limit by turns, and reports the medians.
func (l load) compare(b *testing.B, pid int, addr, limitAddr string) (rate, cpu, ratio float64) {
	b.Helper()
	var rates, cpus, ratios []float64
	for b.Loop() {
		before := serverCPU(pid)
		r := l.rate(b, addr)
		cpus = append(cpus, float64(serverCPU(pid)-before)/float64(time.Microsecond)/(r*measured.Seconds()))
		rates = append(rates, r)
		ratios = append(ratios, r/l.rate(b, limitAddr))
	}
	noNsPerOp(b)
	rate, cpu, ratio = median(rates), median(cpus), median(ratios)
	b.ReportMetric(rate, "messages/s")
	b.ReportMetric(cpu, "us-CPU/message")
	b.ReportMetric(ratio, "of-limit")
	return rate, cpu, ratio
}

// BenchmarkMessages measures the way of a message through poolinit to a worker
// that only echoes and back, beside a bare echo server.
func BenchmarkMessages(b *testing.B) {
	_, limitAddr := serve(b, []string{"BENCH_ECHO=1"}, func(addr string) []string { return []string{os.Args[0], addr} })
	_, preforkAddr := serve(b, nil, func(addr string) []string {
		_, port, _ := net.SplitHostPort(addr)
		return []string{compiled(b, "testdata/prefork.c"), port}
	})
	worker := compiled(b, "testdata/echo_worker.c")
	php := []string{"php", "testdata/echo_worker.php"}
	for _, bench := range []struct {
		name   string
		load   load
		params string
		worker []string
		limit  string
	}{
		{"pipelined", load{64, 32, 100, false}, "?reply=always", []string{worker}, limitAddr},
		{"lockstep", load{16, 1, 100, false}, "?reply=always", []string{worker}, limitAddr},
		{"lockstep-php", load{16, 1, 100, false}, "?reply=always", php, limitAddr},
		{"one-client", load{1, 1, 100, false}, "?reply=always", []string{worker}, limitAddr},
		{"once", load{16, 1, 100, true}, "?once=true", []string{worker}, preforkAddr},
		{"fresh", load{16, 1, 100, true}, "?reply=always", []string{worker}, preforkAddr},
		{"1MiB", load{4, 1, 1 << 20, false}, "?reply=always", []string{worker}, limitAddr},
	} {
		b.Run(bench.name, func(b *testing.B) {
			pid, addr := echoPool(b, bench.params, bench.worker...)
			rate, _, _ := bench.load.compare(b, pid, addr, bench.limit)
			if bench.name == "1MiB" {
				b.ReportMetric(rate*float64(bench.load.size)/1e9, "GB/s")
			}
		})
	}
}

// BenchmarkIdleConnections measures the memory of connections that say nothing.
func BenchmarkIdleConnections(b *testing.B) {
	const n = 10_000
	pid, addr := echoPool(b, "?connections=20000&idle=0s", compiled(b, "testdata/echo_worker.c"))
	most := 0.0 // the first time: later ones use what it has left
	for b.Loop() {
		before := memory(b, pid, "Rss")
		var open []net.Conn
		for range n {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			open = append(open, nc)
		}
		if err := oneMessageOn(addr); err != nil { // all before it have been accepted
			b.Fatal(err)
		}
		most = max(most, float64(memory(b, pid, "Rss")-before)/n)
		for _, nc := range open {
			nc.Close()
		}
	}
	noNsPerOp(b)
	limit(b, most, "kB/connection", 8)
}

func oneMessageOn(addr string) error { return oneMessage(addr, []byte{0, 0, 0, 1, 'x'}) }

// latencies sends messages one after the other on one connection and returns
// how long each took.
func latencies(b *testing.B, addr string, n int) (list []time.Duration) {
	b.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	frame := append([]byte{0, 0, 0, 100}, make([]byte, 100)...)
	reply := make([]byte, len(frame))
	for range n {
		began := time.Now()
		if _, err := nc.Write(frame); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(nc, reply); err != nil {
			b.Fatal(err)
		}
		list = append(list, time.Since(began))
	}
	return list
}

// BenchmarkLatency measures one client that waits for each reply, beside a bare
// echo server.
func BenchmarkLatency(b *testing.B) {
	_, limitAddr := serve(b, []string{"BENCH_ECHO=1"}, func(addr string) []string { return []string{os.Args[0], addr} })
	_, addr := echoPool(b, "?reply=always", compiled(b, "testdata/echo_worker.c"))
	var ours, least []time.Duration
	for b.Loop() {
		for range 20 {
			ours = append(ours, latencies(b, addr, 1000)...)
			least = append(least, latencies(b, limitAddr, 1000)...)
		}
	}
	noNsPerOp(b)
	micro := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	b.ReportMetric(micro(median(least)), "us-limit-p50")
	b.ReportMetric(micro(quantile(ours, 0.99)), "us-p99")
	limit(b, micro(median(ours)-median(least)), "us-over-limit-p50", 60)
}

// BenchmarkSlowAmongFast measures the fast messages while others take 100 ms
// each, and workers are idle.
func BenchmarkSlowAmongFast(b *testing.B) {
	worker := compiled(b, "testdata/echo_worker.c")
	ours := built(b).poolinit
	_, addr := serve(b, nil, func(addr string) []string {
		return []string{ours, "-n", "4", "--log-level", "warn", "--listen", "tcp://" + addr + "?reply=always", "--", worker}
	})
	var fast []time.Duration
	for b.Loop() {
		done := make(chan struct{})
		var slow sync.WaitGroup
		for range 2 {
			slow.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						if err := oneMessage(addr, []byte{0, 0, 0, 1, 's'}); err != nil {
							b.Error(err)
							return
						}
					}
				}
			})
		}
		fast = append(fast, latencies(b, addr, 20_000)...)
		close(done)
		slow.Wait()
	}
	noNsPerOp(b)
	b.ReportMetric(milliseconds(median(fast)), "ms-p50")
	limit(b, milliseconds(quantile(fast, 0.99)), "ms-p99", 5)
}
