package stream

import (
	"math/bits"
	"math/rand/v2"
	"sync"
)

// tagSets has empty sets, with tables of up to maxTagsKept places.
var tagSets = sync.Pool{New: func() any { return newTagSet(minTags) }}

const (
	minTags     = 64
	maxTagsKept = 8192
)

// A tagSet is a set of tags, which are not 0. A client cannot know which of them
// meet in its table.
type tagSet struct {
	table []uint64 // a power of two of places, half of them free at least: 0
	shift uint     // of a tag's product, so that a place is left
	n     int
}

func newTagSet(places int) *tagSet {
	return &tagSet{table: make([]uint64, places), shift: uint(64 - bits.TrailingZeros(uint(places)))}
}

// secret is what a tag is multiplied with.
var secret = rand.Uint64() | 1

// place is where a tag should be.
func (s *tagSet) place(tag uint64) int { return int(tag * secret >> s.shift) }

// find returns where a tag is, or the free place that it would get.
func (s *tagSet) find(tag uint64) int {
	i := s.place(tag)
	for s.table[i] != 0 && s.table[i] != tag {
		i = (i + 1) & (len(s.table) - 1)
	}
	return i
}

func (s *tagSet) has(tag uint64) bool { return s.table[s.find(tag)] == tag }

// add adds a tag, unless it is there.
func (s *tagSet) add(tag uint64) (ok bool) {
	i := s.find(tag)
	if s.table[i] == tag {
		return false
	}
	s.table[i] = tag
	if s.n++; 2*s.n > len(s.table) {
		s.grow()
	}
	return true
}

func (s *tagSet) grow() {
	to := newTagSet(2 * len(s.table))
	for _, tag := range s.table {
		if tag != 0 {
			to.table[to.find(tag)] = tag
		}
	}
	s.table, s.shift = to.table, to.shift
}

// remove removes a tag that is there. Those behind it move up, so that find never
// passes a gap.
func (s *tagSet) remove(tag uint64) {
	gap, mask := s.find(tag), len(s.table)-1
	s.n--
	for i := (gap + 1) & mask; s.table[i] != 0; i = (i + 1) & mask {
		if (i-s.place(s.table[i]))&mask >= (i-gap)&mask {
			s.table[gap], gap = s.table[i], i
		}
	}
	s.table[gap] = 0
}
