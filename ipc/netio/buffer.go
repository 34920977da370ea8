package netio

import (
	"math/bits"
	"runtime/debug"
	"sync"
	"unsafe"
)

// Buffers are kept by powers of two, from 512 bytes to 4 MiB. Larger ones are left
// to the garbage collector.
const (
	minBufferBits   = 9
	largeBufferBits = 16 // from here on few are kept
	maxBufferBits   = 22
)

var (
	smallBuffers [largeBufferBits - minBufferBits]sync.Pool
	largeBuffers shelf
)

// GetBuffer returns an empty buffer with room for n bytes.
func GetBuffer(n int) []byte {
	class := max(bits.Len(uint(max(n, 1)-1)), minBufferBits)
	if class > maxBufferBits {
		return make([]byte, 0, n)
	}
	if p := kept(class); p != nil {
		return unsafe.Slice(p, 1<<class)[:0]
	}
	return make([]byte, 0, 1<<class)
}

func kept(class int) *byte {
	if class >= largeBufferBits {
		return largeBuffers.get(class)
	}
	p, _ := smallBuffers[class-minBufferBits].Get().(*byte)
	return p
}

// PutBuffer gives a buffer back that is not used any more. One that does not
// come from GetBuffer is kept too if it has the right size.
func PutBuffer(b []byte) {
	class := bits.Len(uint(cap(b))) - 1
	switch {
	case class < minBufferBits || class > maxBufferBits || cap(b) != 1<<class:
	case class >= largeBufferBits:
		largeBuffers.put(class, unsafe.SliceData(b))
	default:
		// The pointer alone: a slice in an interface would have to be allocated.
		smallBuffers[class-minBufferBits].Put(unsafe.SliceData(b))
	}
}

// A shelf keeps large buffers, but not more than mostKept of them in all: a sync.Pool
// would keep all that were used at the same time, until the second collection.
type shelf struct {
	mu    sync.Mutex
	bytes int
	free  [maxBufferBits - largeBufferBits + 1][]*byte
}

// mostKept is how many bytes a shelf keeps: 8 MiB, or less where Go's memory limit is
// small.
var mostKept = sync.OnceValue(func() int { return int(min(8<<20, debug.SetMemoryLimit(-1)/32)) })

func (s *shelf) get(class int) *byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	free := &s.free[class-largeBufferBits]
	last := len(*free) - 1
	if last < 0 {
		return nil
	}
	p := (*free)[last]
	(*free)[last] = nil
	*free = (*free)[:last]
	s.bytes -= 1 << class
	return p
}

func (s *shelf) put(class int, p *byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes+1<<class > mostKept() {
		return
	}
	s.bytes += 1 << class
	s.free[class-largeBufferBits] = append(s.free[class-largeBufferBits], p)
}
