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

	"github.com/poolinit/poolinit/status"
)

// AnswerTime is how long a pool may take to answer before it is said to hang.
const AnswerTime = 3 * time.Second

// ErrNone means that no pool runs here.
var ErrNone = errors.New("no pool runs in this PID namespace")

// A Client is connected to a pool. It is for one request.
type Client struct {
	PID  int
	conn *net.UnixConn
	in   *bufio.Reader
}

// Find returns the PID of the pool to talk to: that of PID 1 if it is a pool,
// else the only one there is.
func Find() (int, error) {
	pids, err := List()
	switch {
	case err != nil:
		return 0, err
	case len(pids) == 0:
		return 0, ErrNone
	case pids[0] == 1 || len(pids) == 1:
		return pids[0], nil
	}
	return 0, fmt.Errorf("%d pools run here, with the PIDs %s: say which one by --pid",
		len(pids), strings.Trim(fmt.Sprint(pids), "[]"))
}

// List returns the PIDs of the pools in this PID namespace, in order.
func List() ([]int, error) {
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

// listed returns the PIDs of sockets that listen, in a text as proc(5) describes
// /proc/net/unix.
func listed(text []byte, head string) []int {
	const flagsField, nameField, listens = 3, 7, "00010000"
	var pids []int
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) <= nameField || fields[flagsField] != listens {
			continue
		}
		number, ok := strings.CutPrefix(fields[nameField], head)
		if pid, err := strconv.Atoi(number); ok && err == nil && pid > 0 {
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
	dialer := net.Dialer{Timeout: AnswerTime}
	nc, err := dialer.Dial("unix", head+strconv.Itoa(pid))
	if err != nil {
		return nil, fmt.Errorf("process %d is no pool that could be reached: %w", pid, err)
	}
	conn := nc.(*net.UnixConn)
	raw, err := conn.SyscallConn()
	if err == nil {
		err = listens(raw, pid)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Client{PID: pid, conn: conn, in: bufio.NewReader(conn)}, nil
}

// listens looks that the one who listens is who the name says it is.
func listens(raw interface {
	Control(func(fd uintptr)) error
}, pid int) error {
	cred, err := peer(raw)
	if err != nil {
		return err
	}
	if int(cred.Pid) != pid {
		return fmt.Errorf("the socket of process %d belongs to process %d: not trusting it", pid, cred.Pid)
	}
	return nil
}

// Close ends the connection.
func (c *Client) Close() { c.conn.Close() }

// Status returns a document about the pool, and its JSON.
func (c *Client) Status() (*status.Document, []byte, error) {
	if err := c.ask(cmdStatus, false); err != nil {
		return nil, nil, err
	}
	line, err := c.line(AnswerTime)
	if err != nil {
		return nil, nil, err
	}
	d := new(status.Document)
	if err := json.Unmarshal(line, d); err != nil {
		return nil, nil, fmt.Errorf("the pool's answer makes no sense: %w", err)
	}
	return d, line, nil
}

// Health returns whether the pool is live and ready, or why not.
func (c *Client) Health() (Answer, error) {
	if err := c.ask(cmdHealth, false); err != nil {
		return Answer{}, err
	}
	return c.answer(AnswerTime)
}

// Reload asks for a reload. With wait it calls progress with each answer until
// the last one, which it returns.
func (c *Client) Reload(wait bool, progress func(Answer)) (Answer, error) {
	if err := c.ask(cmdReload, wait); err != nil {
		return Answer{}, err
	}
	for {
		limit := AnswerTime
		if wait {
			limit = 0
		}
		a, err := c.answer(limit)
		if err != nil || a.Accepted || a.Outcome != "" {
			return a, err
		}
		progress(a)
	}
}

// Stop asks the pool to stop. With wait it returns when its process has ended.
func (c *Client) Stop(wait bool) error {
	if err := c.ask(cmdStop, wait); err != nil {
		return err
	}
	if _, err := c.answer(AnswerTime); err != nil || !wait {
		return err
	}
	_ = c.conn.SetReadDeadline(time.Time{}) // closed: the read says so
	_, _ = io.Copy(io.Discard, c.in)        // its end, in whichever way, is the process's
	return nil
}

func (c *Client) ask(command string, wait bool) error {
	line, err := json.Marshal(request{command, wait})
	if err == nil {
		_, err = c.conn.Write(append(line, '\n'))
	}
	if err != nil {
		return c.explain(err)
	}
	return nil
}

func (c *Client) answer(limit time.Duration) (a Answer, err error) {
	line, err := c.line(limit)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("the pool's answer makes no sense: %w", err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("the pool refuses: %s", a.Error)
	}
	return a, nil
}

// line reads a line of the answer; limit 0 is no limit.
func (c *Client) line(limit time.Duration) ([]byte, error) {
	var until time.Time
	if limit > 0 {
		until = time.Now().Add(limit)
	}
	_ = c.conn.SetReadDeadline(until) // closed: the read says so
	line, err := c.in.ReadBytes('\n')
	if err != nil {
		return nil, c.explain(err)
	}
	return line, nil
}

// explain says what it means that the connection failed.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the pool of process %d does not answer within %s: it hangs, or is stopped", c.PID, AnswerTime)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("the pool of process %d hung up: it has ended, or does not trust uid %d (only root and its own user may ask)", c.PID, os.Geteuid())
	}
	return fmt.Errorf("cannot talk to the pool of process %d: %w", c.PID, err)
}
