package ipc

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := Budget{limit: 10}
		var granted sync.Map // those of one release come in any order
		claim := func(name string, n int) {
			go func() { // ends when it is granted
				a.Claim(n)
				granted.Store(name, true)
			}()
			synctest.Wait()
		}
		want := func(names string) {
			t.Helper()
			synctest.Wait()
			got := ""
			for _, name := range strings.Split("abcdef", "") {
				if _, ok := granted.Load(name); ok {
					got += name
				}
			}
			if got != names {
				t.Errorf("granted %s, want %s", got, names)
			}
		}
		claim("a", 6)
		claim("b", 4)
		claim("c", 5)  // has to wait
		claim("d", 1)  // would fit when b is gone, but c was first
		claim("e", 50) // alone, when all others are gone
		want("ab")
		a.Release(4)
		want("ab")
		a.Release(6)
		want("abcd")
		a.Release(5)
		want("abcd")
		a.Release(1)
		want("abcde")
		claim("f", 1)
		want("abcde")
		a.Release(50)
		want("abcdef")
		if a.used != 1 || len(a.waiting) != 0 {
			t.Errorf("%d used, %d wait", a.used, len(a.waiting))
		}
	})
}
