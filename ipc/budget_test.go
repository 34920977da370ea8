package ipc

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A budgetTest has claims by name. All of it runs under fake time.
type budgetTest struct {
	*testing.T
	b       Budget
	claims  map[string]*Claim
	granted sync.Map
	evicted sync.Map
}

func onBudget(t *testing.T, limit int, f func(t *budgetTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(&budgetTest{T: t, b: Budget{limit: limit}, claims: make(map[string]*Claim)})
	})
}

// grow has a claim ask for bytes of its frame.
func (t *budgetTest) grow(name string, to int) {
	c := t.claims[name]
	if c == nil {
		c = t.b.Open(2<<20, func() { t.evicted.Store(name, true) })
		t.claims[name] = c
	}
	t.granted.Delete(name)
	go func() { // ends when it is granted
		c.grow(to)
		c.Await()
		t.granted.Store(name, true)
	}()
	synctest.Wait()
}

func (t *budgetTest) close(name string) {
	t.claims[name].Close()
	delete(t.claims, name)
	t.granted.Delete(name)
	synctest.Wait()
}

func names(m *sync.Map) string {
	var list []string
	m.Range(func(name, _ any) bool { list = append(list, name.(string)); return true })
	slices.Sort(list)
	return strings.Join(list, "")
}

func (t *budgetTest) want(granted, evicted string) {
	t.Helper()
	synctest.Wait()
	if g, e := names(&t.granted), names(&t.evicted); g != granted || e != evicted {
		t.Errorf("granted %q, evicted %q; want %q, %q", g, e, granted, evicted)
	}
}

// empty ends what is left, and checks that nothing stays claimed.
func (t *budgetTest) empty() {
	t.Helper()
	for len(t.claims) > 0 {
		for name := range t.claims {
			if _, ok := t.granted.Load(name); ok {
				t.close(name)
			}
		}
	}
	if used, waiting := t.b.Depth(); used != 0 || waiting != 0 || t.b.leaving != 0 || len(t.b.all) != 0 || t.b.timer != nil || t.b.over != nil {
		t.Errorf("%d used, %d leaving, %d wait, %d open", used, t.b.leaving, waiting, len(t.b.all))
	}
}

const kib = 1 << 10

// Claims are granted first come, first served; but a small one does not wait for
// large ones, and has an eighth for itself.
func TestBudget(t *testing.T) {
	onBudget(t, 800*kib, func(t *budgetTest) {
		t.grow("a", 400*kib)
		t.grow("b", 300*kib)
		t.want("ab", "")
		t.grow("c", 100*kib) // the last eighth is for small ones
		t.grow("d", 90*kib)  // would fit no better, and c was first
		t.grow("e", 64*kib)
		t.want("abe", "")
		t.close("b")
		t.want("acde", "")
		t.empty()
	})
}

// Frames that stop arriving lose their place, the one first that did so first; those
// that arrive, or wait for the queue, do not.
func TestBudgetEvicts(t *testing.T) {
	onBudget(t, 800*kib, func(t *budgetTest) {
		t.grow("a", 200*kib)
		time.Sleep(time.Millisecond)
		t.grow("b", 200*kib)
		t.grow("c", 100*kib)
		t.claims["c"].Arrived(2 << 20) // whole: it waits for room in the queue
		t.grow("d", 150*kib)
		time.Sleep(time.Minute)
		t.want("abcd", "") // it is no matter while there is room for all
		t.claims["d"].Arrived(1)
		t.claims["d"].Await()
		t.claims["b"].Arrived(2 << 20 / stalledPart * 2)
		t.claims["b"].Await()
		t.grow("e", 150*kib)
		t.want("abcd", "a")
		time.Sleep(time.Millisecond)
		t.close("a")
		t.want("bcde", "a")
		t.grow("f", 300*kib) // d is too slow, and b becomes so
		t.want("bcde", "ad")
		t.close("d")
		time.Sleep(stalledFor / 2)
		t.want("bce", "ad")
		time.Sleep(stalledFor)
		t.want("bce", "abd")
		t.close("b")
		t.want("cef", "abd")
		t.empty()
	})
}

// A frame that is larger than the limit, and frames that wait for each other, come
// to their end: one of them may exceed the limit.
func TestBudgetIsNoDeadlock(t *testing.T) {
	onBudget(t, 800*kib, func(t *budgetTest) {
		t.grow("a", 2<<20)
		t.want("a", "")
		t.close("a")
		for i := range 7 {
			t.grow(fmt.Sprint(i), 100*kib)
		}
		t.want("0123456", "")
		for i := range 7 {
			t.grow(fmt.Sprint(i), 200*kib)
		}
		t.want("0", "")
		t.grow("0", 400*kib)
		t.want("0", "")
		t.close("0")
		t.want("1", "")
		t.empty()
	})
}

// What cannot be evicted does not hold up others for ever.
func TestBudgetOfTheStalled(t *testing.T) {
	onBudget(t, 800*kib, func(t *budgetTest) {
		t.claims["a"] = t.b.Open(2<<20, nil)
		t.grow("a", 700*kib)
		t.grow("b", 200*kib)
		t.want("a", "")
		time.Sleep(2 * stalledFor)
		t.want("ab", "")
		t.empty()
	})
}
