package ipc_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// Whatever workers, operators and the clock do: each message is answered exactly
// once, no innocent one is given up, and nothing is left behind.
func TestChaos(t *testing.T) {
	for _, tt := range []struct {
		format      ipc.Format
		concurrency int
	}{{ipc.Frames, 1}, {ipc.Tagged, 1}, {ipc.Tagged, 8}} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			t.Parallel()
			w := ipctest.NewWorld(t, func(c *ipc.Config) {
				c.Format, c.Concurrency, c.QueueMessages, c.MaxMessages = tt.format, tt.concurrency, 64, 50
				c.Attempts, c.RetryDelay, c.RetryDelayMax, c.MaxFailures = 4, 2*time.Millisecond, 10*time.Millisecond, 6
			})
			stop := make(chan struct{})
			for i := range 3 {
				w.Ended.Go(func() { keepWorker(w, i, stop) })
			}
			w.Ended.Go(func() { operate(w, stop) })
			var senders sync.WaitGroup
			var desks []*ipctest.Desk
			for i := range 6 {
				desk := w.NewDesk(func(l *ipc.Lane) {
					l.Priority = i % 3
					if i == 5 {
						l.Expires = 5 * time.Millisecond
					}
				})
				desks = append(desks, desk)
				senders.Go(func() { sendAll(w, desk, fmt.Sprint("d", i, "-"), 300) })
			}
			senders.Wait()
			ipctest.Eventually(t, "nothing is left", func() bool { n, _, flying := w.Q.Depth(); return n+flying == 0 })
			close(stop)
			for i, desk := range desks {
				ipctest.Eventually(t, "all are answered", func() bool { got, _, _ := desk.Ended(); return len(got) == 300 })
				got, _, _ := desk.Ended()
				for body, result := range got {
					if !fair(body, result, i == 5) {
						t.Errorf("%s: %s", body, result)
					}
				}
			}
			if s := w.Q.Stats(3); s.Messages != 0 || s.Bytes != 0 || s.Delayed != 0 || s.Isolated != 0 || s.Later != 0 {
				t.Errorf("left: %+v", s)
			}
		})
	}
}

// fair reports whether a message may have this result.
func fair(body, result string, expires bool) bool {
	switch {
	case result == "!given-up: dropped by an operator", expires && strings.HasPrefix(result, "!expired: "):
		return true
	case strings.Contains(body, "poison"), strings.Contains(body, "fail"):
		return strings.HasPrefix(result, "!given-up: ") || strings.HasPrefix(result, "!retry: ")
	case strings.Contains(body, "refuse"):
		return result == "!refused: no"
	case strings.Contains(body, "twice"):
		return result == body || strings.HasPrefix(result, "!given-up: after 4 attempts: ")
	case strings.Contains(body, "later"):
		return result == body || strings.HasPrefix(result, "!given-up: after 4 attempts: ") || result == "!retry: 3ms: busy" // too many wait
	}
	return result == body
}

func sendAll(w *ipctest.World, desk *ipctest.Desk, prefix string, n int) {
	kinds := []string{"poison", "fail", "refuse", "later", "twice"}
	for i := range n {
		body := fmt.Sprint(prefix, i)
		if rand.IntN(20) == 0 {
			body += kinds[rand.IntN(len(kinds))]
		}
		for desk.Try(body) == 0 {
			<-w.Q.Room(&desk.Flow)
		}
	}
}

// operate pauses, looks and drops now and then.
func operate(w *ipctest.World, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			w.Q.Resume()
			return
		case <-time.After(time.Millisecond):
		}
		switch rand.IntN(10) {
		case 0:
			w.Q.Pause()
		case 1, 2, 3:
			w.Q.Resume()
		case 4:
			if all, _ := w.Q.List(100); len(all) > 50 {
				w.Q.Drop([]uint64{all[rand.IntN(len(all))].ID})
			}
		}
	}
}

// keepWorker replaces a worker whenever it ends, or asks for that.
func keepWorker(w *ipctest.World, id int, stop <-chan struct{}) {
	for {
		c, sock := w.NewChannel(id)
		c.Serve(rand.IntN(2) == 0, time.Time{})
		died := make(chan struct{})
		go func() { // ends with its socket
			defer close(died)
			defer sock.Close()
			play(w, sock)
		}()
		select {
		case <-died:
		case ask := <-c.Asks():
			if ask == ipc.AskRecycle || ask == ipc.AskFailing {
				select {
				case <-c.Finish():
				case <-died:
				case <-time.After(5 * time.Millisecond):
					c.Spare() // the pool ends it
				}
			}
			sock.Close()
		case <-stop:
			sock.Close()
			<-died
			c.Close("the test is over")
			return
		}
		c.Close("it ended")
		<-died
	}
}

// play is a worker's life. One that gets a poison dies, sooner or later.
func play(w *ipctest.World, sock net.Conn) {
	var (
		mu      sync.Mutex
		working sync.WaitGroup
		r       = bufio.NewReader(sock)
		tagged  = w.Config.Format == ipc.Tagged
	)
	defer working.Wait()
	for {
		f, err := readAny(r, tagged)
		switch {
		case err != nil:
			return
		case tagged && f.Tag == 0:
			continue
		}
		handle := func() {
			reply, dies := answerTo(f, rand.IntN(2) == 0)
			if dies {
				sock.Close()
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if tagged {
				_, _ = sock.Write(frame.AppendTagged(nil, reply))
				return
			}
			plain := frame.Append(nil, reply.Body)
			if reply.Failed {
				frame.MarkFailure(plain)
			}
			_, _ = sock.Write(plain)
		}
		if w.Config.Concurrency > 1 {
			working.Go(handle)
		} else {
			handle()
		}
	}
}

func readAny(r *bufio.Reader, tagged bool) (f frame.Tagged, err error) {
	if tagged {
		return frame.ReadTagged(r, frame.MaxTaggedBody)
	}
	f.Body, _, err = ipctest.ReadFrame(r)
	return f, err
}

func answerTo(f frame.Tagged, sometimes bool) (reply frame.Tagged, dies bool) {
	if rand.IntN(4) == 0 {
		time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
	}
	body := string(f.Body)
	reply = frame.Tagged{Tag: f.Tag, Body: f.Body}
	failure := ""
	switch {
	case strings.Contains(body, "poison"):
		return reply, true
	case strings.Contains(body, "fail"):
		failure = "error: no"
	case strings.Contains(body, "refuse"):
		failure = "refused: no"
	case strings.Contains(body, "twice") && sometimes:
		failure = "error: not now"
	case strings.Contains(body, "later") && sometimes:
		failure = "retry: 3ms: busy"
	}
	if failure != "" {
		reply.Failed, reply.Body = true, []byte(failure)
	}
	return reply, false
}
