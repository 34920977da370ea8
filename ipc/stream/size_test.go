package stream

import (
	"testing"
	"unsafe"
)

// Go allocates memory in classes of sizes. A connection has just the size of one;
// the next one would cost 64 bytes more, for each of ten thousand.
func TestConnectionIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(conn{}); n > 576 {
		t.Errorf("a connection has %d bytes: more than 576", n)
	}
}
