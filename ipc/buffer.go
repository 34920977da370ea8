package ipc

import (
	"math/bits"
	"sync"
	"unsafe"
)

// Buffers for messages are pooled by powers of two, from 512 bytes to 4 MiB.
// Larger ones are left to the garbage collector.
const (
	minBufferBits = 9
	maxBufferBits = 22
)

var buffers [maxBufferBits - minBufferBits + 1]sync.Pool

// getBuffer returns an empty buffer with room for n bytes.
func getBuffer(n int) []byte {
	class := max(bits.Len(uint(max(n, 1)-1)), minBufferBits)
	if class > maxBufferBits {
		return make([]byte, 0, n)
	}
	if p, ok := buffers[class-minBufferBits].Get().(*byte); ok {
		return unsafe.Slice(p, 1<<class)[:0]
	}
	return make([]byte, 0, 1<<class)
}

// putBuffer gives a buffer back that nobody uses any more. Those that do not
// come from getBuffer are welcome if they have the right size.
func putBuffer(b []byte) {
	class := bits.Len(uint(cap(b))) - 1
	if class < minBufferBits || class > maxBufferBits || cap(b) != 1<<class {
		return
	}
	// The pointer alone: a slice in an interface would have to be allocated.
	buffers[class-minBufferBits].Put(unsafe.SliceData(b))
}
