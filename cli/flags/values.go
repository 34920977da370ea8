package flags

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
)

// A value is the value of a flag, of any type. Its parser's error says what is
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

// MaxDuration is ten years. A longer one is a typing error. Twice that still is a
// time.Duration, so that a sum of two cannot overflow.
const MaxDuration = 10 * 365 * 24 * time.Hour

// A listValue is the value of a flag that can be repeated.
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

// AtLeast returns a parser of durations that are not shorter than least.
func AtLeast(least time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < least || d > MaxDuration {
			return 0, fmt.Errorf("a duration from %s to %.0fh, such as 500ms, 8s or 1m30s", least, MaxDuration.Hours())
		}
		return d, nil
	}
}

// OneOf returns a parser of one of a few words.
func OneOf[T ~string](words ...T) func(string) (T, error) {
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

// Between returns a parser of whole numbers.
func Between(least, most int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("a whole number from %d to %d", least, most)
		}
		return n, nil
	}
}

// Either returns a parser of one of two words, which reports whether it was the
// second one.
func Either(no, yes string) func(string) (bool, error) {
	parse := OneOf(no, yes)
	return func(s string) (bool, error) {
		word, err := parse(s)
		return word == yes, err
	}
}

// OrAuto returns a parser that also takes the word auto, for which it returns 0.
func OrAuto(parse func(string) (int, error)) func(string) (int, error) {
	return func(s string) (int, error) {
		if s == "auto" {
			return 0, nil
		}
		n, err := parse(s)
		if err != nil {
			return 0, fmt.Errorf("%w, or auto", err)
		}
		return n, nil
	}
}

// HostName reads a name that a Host header may have: without a port.
func HostName(s string) (string, error) {
	if s == "" || strings.ContainsAny(s, ":/ []") {
		return "", errors.New("a name without scheme and port, such as metrics.example.com")
	}
	return s, nil
}

// Address takes an address to listen on; "" stands for none.
func Address(s string) (string, error) {
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

// Directory takes what can be the path of one; "" stands for none.
func Directory(s string) (string, error) {
	if strings.ContainsRune(s, 0) {
		return "", errors.New("the path of a directory, such as /var/spool/poolinit")
	}
	return s, nil
}

// File takes what can be the path of one; "" stands for none.
func File(s string) (string, error) {
	if strings.ContainsRune(s, 0) {
		return "", errors.New("the path of a file, such as /dev/termination-log")
	}
	return s, nil
}

// Bool takes true, false, and whatever else strconv.ParseBool takes for these.
func Bool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("true or false")
	}
	return b, nil
}

// TrueOrFalse takes these two words only.
func TrueOrFalse(s string) (bool, error) {
	if s != "true" && s != "false" {
		return false, errors.New("true or false")
	}
	return s == "true", nil
}

// Signal takes the name or the number of a signal.
func Signal(s string) (syscall.Signal, error) {
	sig, err := signals.Parse(s)
	if err != nil {
		return 0, errors.New("a signal's name such as TERM, its number from 1 to 64, or RTMIN+3")
	}
	return sig, nil
}

// StopSignal takes a signal that can stop a program.
func StopSignal(s string) (syscall.Signal, error) {
	sig, err := Signal(s)
	switch {
	case err != nil:
		return 0, err
	case stopsNothing[sig]:
		return 0, errors.New("a signal that a program can stop at, such as TERM, INT, QUIT, USR1 or WINCH")
	}
	return sig, nil
}

// stopsNothing is the signals that freeze a program, wake it, or are the kernel's and
// the runtime's to send.
var stopsNothing = signals.SetOf(syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCONT,
	syscall.SIGCHLD, syscall.SIGURG)

var errSignals = errors.New("signals that poolinit can catch and does not need itself, separated by commas, such as USR1,HUP")

// Signals takes a list of signals that poolinit can act on.
func Signals(s string) (set signals.Set, err error) {
	for name := range strings.SplitSeq(s, ",") {
		sig, err := signals.Parse(strings.TrimSpace(name))
		if err != nil || !signals.CanMean(sig) {
			return signals.Set{}, errSignals
		}
		set[sig] = true
	}
	return set, nil
}

// SignalsOrNone is Signals, or nothing for no signal.
func SignalsOrNone(s string) (signals.Set, error) {
	if s == "" {
		return signals.Set{}, nil
	}
	return Signals(s)
}

// A Forwarding is a signal that the workers get instead of another one; 0 is nothing.
type Forwarding struct{ From, To syscall.Signal }

// Forward takes SIGNAL=SIGNAL, or SIGNAL= for nothing.
func Forward(s string) (f Forwarding, err error) {
	from, to, found := strings.Cut(s, "=")
	f.From, err = signals.Parse(from)
	if err == nil && to != "" {
		f.To, err = signals.Parse(to)
	}
	if !found || err != nil || !signals.CanMean(f.From) {
		return Forwarding{}, errors.New("two signals, such as USR1=USR2, or one that is not to be passed on, USR1=; KILL, STOP, CHLD and others that poolinit cannot catch or needs itself are not allowed first")
	}
	return f, nil
}

// AtLeastSize returns a parser of sizes that cannot be off.
func AtLeastSize(least uint64) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := parseBytes(s)
		if err != nil || n < least || n > 1<<31-1 {
			return 0, fmt.Errorf("a size of at least %d bytes, and less than 2GiB, such as 512KiB, 64MiB or 64M", least)
		}
		return int(n), nil
	}
}

var errSize = errors.New("a size such as 512KiB, 64MiB, 64M or 1G (K, M, G, T are powers of 1024), at least 1MiB, or 0 for off")

// Size takes a size of at least 1 MiB, or 0 for off.
func Size(s string) (uint64, error) {
	n, err := parseBytes(s)
	if err != nil || n != 0 && n < 1<<20 {
		return 0, errSize
	}
	return n, nil
}

// parseBytes parses 64MiB, 64M, 64m, 67108864. It refuses more than half of what
// an int64 holds, as jitter is added to a limit.
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
