package spool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"regexp"
	"sync"
	"time"

	"github.com/poolinit/poolinit/ipc"
)

// A file of the spool is a line of JSON and then the body, as it is:
//
//	{"poolinit":1,"source":"tcp://0.0.0.0:8089","id":17,...,"size":5,"crc32c":2591144780}
//	hello

// A header is the line.
type header struct {
	Version  int       `json:"poolinit"` // of the format
	Source   string    `json:"source"`
	ID       uint64    `json:"id"`
	Attempts int       `json:"attempts"` // that failed
	Arrived  time.Time `json:"arrived"`
	Kept     time.Time `json:"kept"`
	Reason   string    `json:"reason,omitempty"` // why it was given up
	Stderr   []string  `json:"stderr,omitempty"` // the last lines of the worker that had it
	Size     int       `json:"size"`             // of the body
	CRC      uint32    `json:"crc32c"`           // of the body
}

const (
	version = 1
	// nameTime sorts as text.
	nameTime = "20060102T150405.000000000Z"
	// maxHeader is far more than a header has.
	maxHeader = 1 << 20
	// maxBody is the largest body that may ever have been taken.
	maxBody = 1<<31 - 1
)

var messageName = sync.OnceValue(func() *regexp.Regexp { // not at the start: most have no spool
	return regexp.MustCompile(`^\d{8}T\d{6}\.\d{9}Z-\d{10,20}(-\d+)?\.(undelivered|given-up)$`)
})

// isMessage reports whether a file has the name of a message.
func isMessage(name string) bool { return messageName().MatchString(name) }

func headerOf(d *ipc.Delivery) header {
	return header{Source: d.Source().Name, ID: d.ID(), Attempts: d.Attempts(), Arrived: d.Arrived()}
}

func appendFile(to []byte, h header, body []byte) []byte {
	h.Version, h.Size, h.CRC = version, len(body), checksum(body)
	line, err := json.Marshal(h)
	if err != nil {
		line = []byte("{}") // a year with five digits; the reader rejects it
	}
	to = append(append(to, line...), '\n')
	return append(to, body...)
}

var (
	errNoHeader = errors.New("its first line is not a message header")
	errCutShort = errors.New("it is truncated")
	errBadBody  = errors.New("it is corrupt: the checksum is that of another body")
)

// readMessage reads what appendFile has written.
func readMessage(r io.Reader, limit int) (h header, body []byte, err error) {
	h, rest, err := readHeader(r)
	switch {
	case err != nil:
		return h, nil, err
	case h.Size > limit:
		return h, nil, fmt.Errorf("the message has %d bytes, and the limit is %d", h.Size, limit)
	case len(rest) > h.Size:
		return h, nil, errBadBody
	}
	// A false size may be large: what is there decides how much memory is taken.
	all := bytes.NewBuffer(rest)
	_, err = io.Copy(all, io.LimitReader(r, int64(h.Size-len(rest))+1))
	switch body = all.Bytes(); {
	case err != nil:
		return h, nil, err
	case len(body) < h.Size:
		return h, nil, errCutShort
	case len(body) > h.Size, checksum(body) != h.CRC:
		return h, nil, errBadBody
	}
	return h, body, nil
}

// readHeader reads the first line, and what it happens to read of the rest.
func readHeader(r io.Reader) (h header, rest []byte, err error) {
	var b []byte
	for end := -1; end < 0; {
		chunk := make([]byte, 4096)
		n, err := io.ReadFull(r, chunk)
		b = append(b, chunk[:n]...)
		if end = bytes.IndexByte(b, '\n'); end >= 0 {
			rest = b[end+1:]
			b = b[:end]
			break
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return h, nil, errCutShort
		case err != nil:
			return h, nil, err
		case len(b) > maxHeader:
			return h, nil, errNoHeader
		}
	}
	if json.Unmarshal(b, &h) != nil || h.Size < 0 || h.Attempts < 0 {
		return h, nil, errNoHeader
	}
	if h.Version != version {
		return h, nil, fmt.Errorf("it has format %d, and this poolinit knows %d", h.Version, version)
	}
	return h, rest, nil
}

// checksum is CRC-32C. The package makes its table once, at the first call, not
// at the start of every poolinit.
func checksum(body []byte) uint32 {
	return crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))
}
