package netio

import (
	"math/bits"
	"sync"
	"unsafe"
)

// Buffers are pooled by powers of two, from 512 bytes to 4 MiB. Larger ones are
// left to the garbage collector.
const (
	minBufferBits = 9
	maxBufferBits = 22
)

var buffers [maxBufferBits - minBufferBits + 1]sync.Pool

// GetBuffer returns an empty buffer with room for n bytes.
func GetBuffer(n int) []byte {
	class := max(bits.Len(uint(max(n, 1)-1)), minBufferBits)
	if class > maxBufferBits {
		return make([]byte, 0, n)
	}
	if p, ok := buffers[class-minBufferBits].Get().(*byte); ok {
		return unsafe.Slice(p, 1<<class)[:0]
	}
	return make([]byte, 0, 1<<class)
}

// PutBuffer gives a buffer back that is not used any more. One that does not
// come from GetBuffer is kept too if it has the right size.
func PutBuffer(b []byte) {
	class := bits.Len(uint(cap(b))) - 1
	if class < minBufferBits || class > maxBufferBits || cap(b) != 1<<class {
		return
	}
	// The pointer alone: a slice in an interface would have to be allocated.
	buffers[class-minBufferBits].Put(unsafe.SliceData(b))
}
