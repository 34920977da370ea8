package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/metrics/status"
)

// AnswerTime is how long a pool may take to answer. When it elapses, the error says that
// the pool hangs.
const AnswerTime = 3 * time.Second

// ErrNone means that no pool runs here.
var ErrNone = errors.New("no pool runs in this PID namespace")

// A noPool is the PID of a process that is not a pool.
type noPool int

func (pid noPool) Error() string {
	return fmt.Sprintf("process %d is not a pool in this PID namespace", int(pid))
}

// An untrusted is a socket that does not belong to the process in its name.
type untrusted string

func (why untrusted) Error() string { return string(why) + ": not trusting it" }

// A Client is connected to a pool. It is for one request.
type Client struct {
	PID    int
	UID    uint32 // of the process
	conn   *net.UnixConn
	in     *bufio.Reader
	within time.Duration // AnswerTime; tests wait for less
}

// Open connects to the pool of PID 1 if there is one, otherwise to the only one of
// this user: any other user's process can have a socket that looks like a pool's, and
// answer what it likes. It looks in the list of pools second, because that list has every unix socket of
// the network namespace, which may be many. Where PID 1 is another program, any process
// can take its name: that must not hide the pool.
func Open() (*Client, error) {
	c, err := Dial(1)
	switch err.(type) {
	case noPool, untrusted:
	default:
		return c, err
	}
	pids, err := list()
	if err != nil {
		return nil, err
	}
	var found []*Client
	var foreign error
	for _, pid := range pids {
		switch c, failed := Dial(pid); failed.(type) {
		case nil:
			if c.UID != uint32(os.Geteuid()) {
				foreign = untrusted(fmt.Sprintf("process %d, which says that it is a pool, is of uid %d; if you mean it, say --pid %d", pid, c.UID, pid))
				c.Close()
				continue
			}
			found = append(found, c)
		case noPool: // it has just ended
		default:
			err = failed
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && foreign != nil:
		return nil, foreign
	case len(found) == 0 && err == nil:
		return nil, ErrNone
	case len(found) == 0:
		return nil, err
	}
	text := fmt.Sprintf("%d pools run here, with the PIDs", len(found))
	for _, c := range found {
		c.Close()
		text += " " + strconv.Itoa(c.PID)
	}
	return nil, errors.New(text + ": say which one by --pid")
}

// list returns the PIDs of the pools in this PID namespace, in order.
func list() ([]int, error) {
	head, err := prefix()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, fmt.Errorf("cannot look for pools: %w", err)
	}
	return listed(text, head), nil
}

// listed returns the PIDs of the sockets that listen, in a text as proc(5) describes
// /proc/net/unix. Other programs choose their names freely, even with blanks and ends of
// line in them, so a name that is found here may not exist at all.
func listed(text []byte, head string) []int {
	const flagsField, nameField, listens = 3, 7, "00010000"
	var pids []int
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) != nameField+1 || fields[flagsField] != listens {
			continue
		}
		number, ok := strings.CutPrefix(fields[nameField], head)
		if pid, err := strconv.Atoi(number); ok && err == nil && pid > 0 && number == strconv.Itoa(pid) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// Dial connects to the pool of a process.
func Dial(pid int) (*Client, error) {
	head, err := prefix()
	if err != nil {
		return nil, err
	}
	nc, err := net.Dial("unix", head+strconv.Itoa(pid)) // at once: the kernel connects it, or it fails
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, noPool(pid)
	case errors.Is(err, syscall.EAGAIN):
		return nil, fmt.Errorf("the pool of process %d hangs, or is stopped: too many wait for it already", pid)
	case err != nil:
		return nil, fmt.Errorf("cannot reach the pool of process %d: %w", pid, err)
	}
	conn := nc.(*net.UnixConn)
	uid, err := genuine(conn, pid)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Client{PID: pid, UID: uid, conn: conn, in: bufio.NewReader(conn), within: AnswerTime}, nil
}

// genuine checks that the process that listens is the one whose PID is in the name, and
// that it accepts requests of this user. Any other process could answer anything. It
// returns the process's user.
func genuine(conn *net.UnixConn, pid int) (owner uint32, err error) {
	cred, err := peer(conn)
	if err != nil {
		return 0, err
	}
	switch uid := os.Geteuid(); {
	case cred.Pid == 0:
		return 0, untrusted(fmt.Sprintf("the socket of process %d belongs to a process of another PID namespace", pid))
	case int(cred.Pid) != pid:
		return 0, untrusted(fmt.Sprintf("the socket of process %d belongs to process %d", pid, cred.Pid))
	case uid != 0 && cred.Uid != uint32(uid):
		return 0, fmt.Errorf("the pool of process %d runs as uid %d: only that one and root may ask it, and this is uid %d", pid, cred.Uid, uid)
	}
	return cred.Uid, nil
}

// Close ends the connection, and any call that waits for an answer.
func (c *Client) Close() { c.conn.Close() }

// Status returns a document about the pool, and its JSON.
func (c *Client) Status() (*status.Document, []byte, error) {
	if err := c.ask(request{Command: cmdStatus}); err != nil {
		return nil, nil, err
	}
	d := new(status.Document)
	line, err := c.receive(c.within, d)
	return d, line, err
}

// Health returns whether the pool is live and ready, or why not.
func (c *Client) Health() (Answer, error) {
	return c.request(request{Command: cmdHealth})
}

// Reload asks for a reload. Without wait it returns whether it was accepted; with
// wait it calls progress with each answer until the last one, which it returns.
func (c *Client) Reload(wait bool, progress func(Answer)) (Answer, error) {
	if err := c.ask(request{Command: cmdReload, Wait: wait}); err != nil {
		return Answer{}, err
	}
	a, err := c.answer(c.within)
	for wait && err == nil && a.Outcome == "" {
		if !a.Accepted {
			progress(a)
		}
		a, err = c.answer(0)
	}
	return a, err
}

// Stop asks the pool to stop, or with now to kill its workers, and returns its answer.
// With wait it returns when the pool's process has ended.
func (c *Client) Stop(wait, now bool) (Answer, error) {
	if err := c.ask(request{Command: cmdStop, Wait: wait, Now: now}); err != nil {
		return Answer{}, err
	}
	a, err := c.answer(c.within)
	if err != nil || !wait {
		return a, err
	}
	_ = c.conn.SetReadDeadline(time.Time{}) // if it is closed, the read reports that
	_, _ = io.Copy(io.Discard, c.in)        // however it ends, the process has ended
	return a, nil
}

// Scale asks for a number of workers.
func (c *Client) Scale(workers int) error {
	_, err := c.request(request{Command: cmdScale, Workers: workers})
	return err
}

// Pause asks the pool to hand out no messages until Resume.
func (c *Client) Pause() error {
	_, err := c.request(request{Command: cmdPause})
	return err
}

// Resume ends a Pause.
func (c *Client) Resume() error {
	_, err := c.request(request{Command: cmdResume})
	return err
}

// Queue returns messages that wait, those that have waited longest, at most limit, and
// the JSON of that.
func (c *Client) Queue(limit int) (*List, []byte, error) {
	if err := c.ask(request{Command: cmdQueue, Limit: limit}); err != nil {
		return nil, nil, err
	}
	l := new(List)
	line, err := c.receive(c.within, l)
	return l, line, err
}

// Drop asks the pool to give up messages, at most MaxIDs, and returns how many of them
// waited.
func (c *Client) Drop(ids []uint64) (dropped int, err error) {
	a, err := c.request(request{Command: cmdDrop, IDs: ids})
	return a.Dropped, err
}

// request asks for something that is done at once.
func (c *Client) request(r request) (Answer, error) {
	if err := c.ask(r); err != nil {
		return Answer{}, err
	}
	return c.answer(c.within)
}

func (c *Client) ask(r request) error {
	line, err := json.Marshal(r)
	if err == nil {
		_, err = c.conn.Write(append(line, '\n'))
	}
	// A client without access can still read the reason.
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		return c.explain(err)
	}
	return nil
}

func (c *Client) answer(limit time.Duration) (a Answer, err error) {
	_, err = c.receive(limit, &a)
	return a, err
}

// receive reads a line of the answer into v. A limit of 0 means no limit.
func (c *Client) receive(limit time.Duration, v any) ([]byte, error) {
	var until time.Time
	if limit > 0 {
		until = time.Now().Add(limit)
	}
	_ = c.conn.SetReadDeadline(until) // if it is closed, the read reports that
	line, err := readLine(c.in)
	if err != nil {
		return nil, c.explain(err)
	}
	var refused Answer
	if bytes.HasPrefix(line, []byte(`{"error":`)) {
		v = &refused
	}
	if err := json.Unmarshal(line, v); err != nil {
		return nil, fmt.Errorf("cannot parse the pool's answer: %w", err)
	}
	if refused.Error != "" {
		return nil, errors.New("the pool refuses: " + refused.Error)
	}
	return line, nil
}

// maxAnswer is more than the status of the largest pool has, in bytes.
const maxAnswer = 128 << 20

var errLongAnswer = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)

func readLine(in *bufio.Reader) (line []byte, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if line = append(line, part...); err != bufio.ErrBufferFull {
			return line, err
		}
		if len(line) > maxAnswer {
			return nil, errLongAnswer
		}
	}
}

// explain returns an error that says what the failure of the connection means.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the pool of process %d does not answer within %s: it hangs, or is stopped", c.PID, c.within)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("the pool of process %d closed the connection: it has ended, or is about to", c.PID)
	}
	return fmt.Errorf("cannot talk to the pool of process %d: %w", c.PID, err)
}
