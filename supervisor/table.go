package supervisor

// A rule is one line of a table of states and events: in one of the states `in`,
// the event `on` leads to the state `to`.
type rule[S, E ~string, T any] struct {
	in   []S
	on   E
	when func(T) bool // the rule is skipped if this is false; nil: it always holds
	to   S            // "": the state stays
	do   func(T)      // called after the change of state; may be nil
}

// A table has the rules of one kind of object. Of the rules for one state and
// one event the first that holds is applied. An event without a rule is ignored.
type table[S, E ~string, T any] struct {
	rules []rule[S, E, T]
	index map[cell[S, E]][]int // of rules
}

type cell[S, E ~string] struct {
	in S
	on E
}

func newTable[S, E ~string, T any](rules []rule[S, E, T]) *table[S, E, T] {
	t := &table[S, E, T]{rules, make(map[cell[S, E]][]int, 4*len(rules))}
	for i, r := range rules {
		for _, in := range r.in {
			c := cell[S, E]{in, r.on}
			t.index[c] = append(t.index[c], i)
		}
	}
	return t
}

func (t *table[S, E, T]) handles(in S, on E) bool { return len(t.index[cell[S, E]{in, on}]) > 0 }

// apply finds the rule for an event, changes the state by enter, and acts.
func (t *table[S, E, T]) apply(object T, in S, on E, enter func(S)) {
	for _, i := range t.index[cell[S, E]{in, on}] {
		r := &t.rules[i]
		if r.when != nil && !r.when(object) {
			continue
		}
		if r.to != "" {
			enter(r.to)
		}
		if r.do != nil {
			r.do(object)
		}
		return
	}
}

// listen returns c if a state handles what c tells, and otherwise nil: then c
// keeps it for a later state. It is for channels that are closed once and for
// senders that wait.
func listen[T any](handles bool, c <-chan T) <-chan T {
	if !handles {
		return nil
	}
	return c
}
