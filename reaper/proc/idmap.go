package proc

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"
)

// An IDMap is the user or group ids that this user namespace has: every second
// number is how many there are from the one before it.
type IDMap []uint64

// UserMap returns the uids, and GroupMap the gids. Without /proc nothing is known,
// and the map is nil.
func UserMap() IDMap { return readMap("/proc/self/uid_map") }

// GroupMap is UserMap for gids.
func GroupMap() IDMap { return readMap("/proc/self/gid_map") }

func readMap(file string) IDMap {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return parseMap(text)
}

// parseMap reads a text as user_namespaces(7) describes it: first id here, first id
// outside, number of ids.
func parseMap(text []byte) (m IDMap) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			return nil
		}
		first, err1 := strconv.ParseUint(fields[0], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 != nil || err2 != nil {
			return nil
		}
		m = append(m, first, count)
	}
	return m
}

// Has reports whether a process of this namespace can have the id. A map that is not
// known has all.
func (m IDMap) Has(id uint32) bool {
	for i := 0; i < len(m); i += 2 {
		if uint64(id) >= m[i] && uint64(id)-m[i] < m[i+1] {
			return true
		}
	}
	return m == nil
}

// String lists the ids: 0-999, 65534.
func (m IDMap) String() string {
	var b strings.Builder
	for i := 0; i < len(m); i += 2 {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.FormatUint(m[i], 10))
		if m[i+1] > 1 {
			b.WriteString("-" + strconv.FormatUint(m[i]+m[i+1]-1, 10))
		}
	}
	return b.String()
}
