package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/reaper/signals"
	"github.com/poolinit/poolinit/supervisor/output"
)

// A value is a flag's value of any type, with a parser that says what is
// allowed. It implements pflag.Value.
type value[T any] struct {
	to    *T
	parse func(string) (T, error)
	text  string
	kind  string
}

func (v *value[T]) Set(s string) error {
	x, err := v.parse(s)
	if err != nil {
		return err
	}
	*v.to, v.text = x, s
	return nil
}

func (v *value[T]) String() string { return v.text }
func (v *value[T]) Type() string   { return v.kind }

// maxDuration is ten years. More is a typing error, and twice that still is a
// time.Duration, so that whoever calculates with one need not look.
const maxDuration = 10 * 365 * 24 * time.Hour

// A listValue is the value of a flag that may be given several times.
type listValue[T any] struct {
	to    *[]T
	parse func(string) (T, error)
	texts []string
	kind  string
}

func (v *listValue[T]) Set(s string) error {
	x, err := v.parse(s)
	if err != nil {
		return err
	}
	*v.to, v.texts = append(*v.to, x), append(v.texts, s)
	return nil
}

func (v *listValue[T]) String() string { return strings.Join(v.texts, ",") }
func (v *listValue[T]) Type() string   { return v.kind }
func (v *listValue[T]) isList()        {}

// atLeast parses a duration that is not shorter than least.
func atLeast(least time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < least || d > maxDuration {
			return 0, fmt.Errorf("a duration from %s to %.0fh, such as 500ms, 8s or 1m30s", least, maxDuration.Hours())
		}
		return d, nil
	}
}

// oneOf parses one of a few words.
func oneOf[T ~string](words ...T) func(string) (T, error) {
	return func(s string) (T, error) {
		if slices.Contains(words, T(s)) {
			return T(s), nil
		}
		var list []string
		for _, w := range words {
			list = append(list, string(w))
		}
		return "", errors.New(strings.Join(list[:len(list)-1], ", ") + " or " + list[len(list)-1])
	}
}

// between parses a whole number.
func between(least, most int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("a whole number from %d to %d", least, most)
		}
		return n, nil
	}
}

// parseWorkers parses a number of workers; 0 stands for auto.
func parseWorkers(s string) (int, error) {
	if s == "auto" {
		return 0, nil
	}
	n, err := between(1, maxWorkers)(s)
	if err != nil {
		return 0, fmt.Errorf("%w, or auto", err)
	}
	return n, nil
}

// parseAddress takes what can be listened on; "" stands for nothing.
func parseAddress(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	allowed := errors.New("HOST:PORT or :PORT, such as 127.0.0.1:9090, [::1]:9090 or :9090")
	host, port, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(host, "/ ") {
		return "", allowed
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", allowed
	}
	return s, nil
}

func parseBool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("true or false")
	}
	return b, nil
}

func parseSignal(s string) (syscall.Signal, error) {
	sig, err := signals.Parse(s)
	if err != nil {
		return 0, errors.New("a signal's name such as TERM, its number from 1 to 64, or RTMIN+3")
	}
	return sig, nil
}

func parseOutput(s string) (output.Mode, error) {
	mode, err := output.ParseMode(s)
	if err != nil {
		return mode, fmt.Errorf("%s, %s or %s", output.Inherit, output.Prefix, output.JSON)
	}
	return mode, nil
}

// parseWindow parses a window; 0 stands for auto.
func parseWindow(s string) (int, error) {
	if s == "auto" {
		return 0, nil
	}
	n, err := between(1, 4096)(s)
	if err != nil {
		return 0, fmt.Errorf("%w, or auto", err)
	}
	return n, nil
}

// atLeastSize parses a size that is not off.
func atLeastSize(least uint64) func(string) (uint64, error) {
	return func(s string) (uint64, error) {
		n, err := parseBytes(s)
		if err != nil || n < least || n > 1<<31-1 {
			return 0, fmt.Errorf("a size of at least %d bytes, and less than 2GiB, such as 512KiB, 64MiB or 64M", least)
		}
		return n, nil
	}
}

var errSize = errors.New("a size such as 512KiB, 64MiB, 64M or 1G (K, M, G, T are powers of 1024), at least 1MiB, or 0 for off")

// parseSize parses a size of at least 1 MiB, or 0 for off.
func parseSize(s string) (uint64, error) {
	n, err := parseBytes(s)
	if err != nil || n != 0 && n < 1<<20 {
		return 0, errSize
	}
	return n, nil
}

// parseBytes parses 64MiB, 64M, 64m, 67108864. What is more than half of all
// that an int64 holds is refused: a limit gets its jitter added.
func parseBytes(s string) (uint64, error) {
	digits := strings.TrimRight(s, "kKmMgGtTiIbB")
	shift, ok := map[string]uint{
		"": 0, "B": 0, "K": 10, "KIB": 10, "M": 20, "MIB": 20, "G": 30, "GIB": 30, "T": 40, "TIB": 40,
	}[strings.ToUpper(s[len(digits):])]
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || !ok || n > 1<<(62-shift) {
		return 0, errSize
	}
	return n << shift, nil
}
