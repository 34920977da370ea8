package ipc

import (
	"sync"
	"sync/atomic"
)

// Debts limits the memory of replies that wait for clients which do not read them.
// When all together are too much, the client that owes most is cut off.
type Debts struct {
	limit int64
	total atomic.Int64

	mu    sync.Mutex // guards first and the links of all
	first *Debt

	cutting sync.Mutex // held while clients are cut off
}

// A Debtor is a client that may owe.
type Debtor interface {
	// CutOff drops all replies that wait for the client, and ends its connection.
	// Its Debt is 0 when it returns.
	CutOff()
}

// A Debt is the memory of the replies that wait for one client. The client's mutex
// guards it, but for bytes.
type Debt struct {
	debts      *Debts
	debtor     Debtor
	bytes      atomic.Int64
	next, prev *Debt
}

// Limit is how much may wait, in bytes.
func (a *Debts) Limit() int { return int(a.limit) }

// Total is how much waits now, in bytes.
func (a *Debts) Total() int { return int(a.total.Load()) }

// Open returns the debt of a client, which owes nothing yet. Close must follow.
func (a *Debts) Open(debtor Debtor) *Debt {
	d := &Debt{debts: a, debtor: debtor}
	a.mu.Lock()
	defer a.mu.Unlock()
	if d.next = a.first; d.next != nil {
		d.next.prev = d
	}
	a.first = d
	return d
}

// Owes is what was set last.
func (d *Debt) Owes() int { return int(d.bytes.Load()) }

// Set says how much the client owes now. It reports whether all debts together are
// too much: then Collect must follow, without any client's mutex.
func (d *Debt) Set(bytes int) (tooMuch bool) {
	more := int64(bytes) - d.bytes.Swap(int64(bytes))
	return d.debts.total.Add(more) > d.debts.limit
}

// Close ends a debt that is paid, or whose client is gone.
func (d *Debt) Close() {
	d.Set(0)
	a := d.debts
	a.mu.Lock()
	defer a.mu.Unlock()
	if d.prev == nil {
		a.first = d.next
	} else {
		d.prev.next = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	}
}

// Collect cuts clients off, those that owe most first, until what is owed is within
// the limit.
func (a *Debts) Collect() {
	a.cutting.Lock()
	defer a.cutting.Unlock()
	for a.total.Load() > a.limit {
		largest := a.largest()
		if largest == nil {
			return
		}
		largest.debtor.CutOff()
	}
}

// largest returns the largest debt, or nil if there is none.
func (a *Debts) largest() (largest *Debt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	most := int64(0)
	for d := a.first; d != nil; d = d.next {
		if n := d.bytes.Load(); n > most {
			largest, most = d, n
		}
	}
	return largest
}
