// Package chaos runs a pool through a random schedule of trouble, and knows what may
// become of each message.
//
// A round is a pool, its clients, and a schedule, all drawn from the round's seed:
// workers are killed, stopped and eat memory, the pool is frozen, reloaded, scaled,
// paused, stopped and started again, its disk is full or hangs, its descriptors and
// PIDs are used up, and rude clients and strangers call. Meanwhile honest clients send
// messages, and note what they are answered; workers note what they begin. At the end of
// the round an oracle compares the notes, and nothing may be left behind.
//
// TestChaos runs rounds until CHAOS (a duration) is over, and at least one. The first
// has the seed CHAOS_SEED, each later one the next number. So the seed of a round that
// failed replays it: make chaos SEED=n.
package chaos

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

func TestChaos(t *testing.T) {
	long, seed := 20*time.Second, uint64(1)
	if s := os.Getenv("CHAOS"); s != "" {
		var err error
		if long, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	switch s := os.Getenv("CHAOS_SEED"); s {
	case "":
	case "random":
		seed = uint64(time.Now().UnixNano()) % 1e6
	default:
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() != 0 {
		strict.Skip(t, "it takes root to make a PID namespace, and most of the trouble")
	}
	for end := time.Now().Add(long); ; seed++ {
		if !t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { runRound(t, seed) }) {
			t.Logf("a round has failed. To run it again: make chaos SEED=%d", seed)
			return
		}
		if time.Now().After(end) {
			return
		}
	}
}
