package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
)

const canary = `Qu/ack "50%" <ü>`

// However it is printed, nothing of it is seen.
func TestTextIsHidden(t *testing.T) {
	s := Text(canary)
	coded, err := json.Marshal(struct{ Password Text }{s})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "password", s, "in", struct{ P Text }{s})
	for _, got := range []string{fmt.Sprint(s), fmt.Sprintf("%s %q %v %+v %#v %x %d", s, s, s, s, s, s, s),
		fmt.Sprintf("%+v", struct{ P *Text }{&s}.P), string(coded), log.String()} {
		if strings.Contains(got, "ack") || strings.Contains(got, fmt.Sprintf("%x", "ack")) || !strings.Contains(got, Hidden) {
			t.Errorf("printed as %s", got)
		}
	}
	var back struct{ Password Text }
	if err := json.Unmarshal([]byte(`{"Password":"open"}`), &back); err != nil || back.Password.Reveal() != "open" {
		t.Errorf("read as %q, %v", back.Password.Reveal(), err)
	}
}

// What a library says of an error has the secret in one of these forms.
func TestFilter(t *testing.T) {
	var out bytes.Buffer
	f := &Filter{To: &out}
	f.Add(canary, "", "Qu")
	coded, _ := json.Marshal(canary)
	for _, said := range []string{canary, fmt.Sprintf("%q", canary), string(coded), url.QueryEscape(canary), url.PathEscape(canary),
		(&url.URL{Scheme: "amqp", User: url.UserPassword("app", canary), Host: "h"}).String(), strings.ToLower(url.QueryEscape(canary))} {
		out.Reset()
		n, err := f.Write([]byte("dial: " + said + ": refused\n"))
		if err != nil || n != len("dial: "+said+": refused\n") {
			t.Errorf("%d, %v", n, err)
		}
		for _, got := range []string{out.String(), f.Clean("dial: " + said + ": refused\n")} {
			if strings.Contains(strings.ToLower(got), "ack") || !strings.Contains(got, Hidden) || !strings.HasSuffix(got, ": refused\n") {
				t.Errorf("%s is passed on as %s", said, got)
			}
		}
	}
}
