package flow

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/poolinit/poolinit/feeders/link"
)

// appendMeta appends the meta of a message. Headers that would make it too long are
// left out.
func appendMeta(to []byte, m *Message, attempt int, source string) []byte {
	start := len(to)
	to = append(to, '{')
	if m.ID != "" {
		to = appendMember(to, `"id":`, m.ID)
	}
	to = append(to, `"attempt":`...)
	to = strconv.AppendInt(to, int64(attempt), 10)
	to = appendMember(append(to, ','), `"source":`, source)
	to = appendMember(to, `"queue":`, m.Queue)
	if m.Key != "" {
		to = appendMember(to, `"key":`, m.Key)
	}
	if !m.Time.IsZero() {
		to = append(to, `"time":"`...)
		to = m.Time.UTC().AppendFormat(to, time.RFC3339Nano)
		to = append(to, `",`...)
	}
	if m.More != "" {
		to = append(append(to, m.More...), ',')
	}
	before := len(to)
	if len(m.Headers) > 0 {
		to = appendHeaders(to, m.Headers)
		if len(to)-start > link.MaxMeta {
			to = to[:before]
		}
	}
	to[len(to)-1] = '}' // each member ends with a comma
	return to
}

// replyType returns the content type that a worker has given its reply.
func replyType(meta []byte) string {
	var m struct {
		Type string `json:"type"`
	}
	if len(meta) == 0 || json.Unmarshal(meta, &m) != nil {
		return ""
	}
	return m.Type
}

// appendMember appends a member and a comma.
func appendMember(to []byte, name, value string) []byte {
	return append(appendString(append(to, name...), value), ',')
}

// appendHeaders appends headers, and headers64: those that are not UTF-8.
func appendHeaders(to []byte, headers map[string]string) []byte {
	var odd []string
	to = append(to, `"headers":{`...)
	first := true
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		if !utf8.ValidString(headers[name]) {
			odd = append(odd, name)
			continue
		}
		if !first {
			to = append(to, ',')
		}
		first = false
		to = appendString(append(appendString(to, name), ':'), headers[name])
	}
	to = append(to, "},"...)
	if len(odd) == 0 {
		return to
	}
	to = append(to, `"headers64":{`...)
	for i, name := range odd {
		if i > 0 {
			to = append(to, ',')
		}
		to = append(appendString(to, name), `:"`...)
		to = base64.StdEncoding.AppendEncode(to, []byte(headers[name]))
		to = append(to, '"')
	}
	return append(to, "},"...)
}

// appendString appends a string in JSON. Most are the same inside of quotes.
func appendString(to []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			coded, _ := json.Marshal(s) // every string has a form in JSON
			return append(to, coded...)
		}
	}
	to = append(to, '"')
	to = append(to, s...)
	return append(to, '"')
}
