package netio

// pieceSize is the largest buffer that what is written is collected in. A peer
// that does not read makes many of them, and each is free again when it has been
// written.
const pieceSize = 64 << 10

// pieces are the buffers of a Writer that are full, oldest first. Most Writers
// never have any.
type pieces struct {
	list  [][]byte
	next  int // the first that is not taken
	bytes int // of memory
}

func (p *pieces) isEmpty() bool { return p == nil || p.next == len(p.list) }

// holds is how much memory they take.
func (p *pieces) holds() int {
	if p == nil {
		return 0
	}
	return p.bytes
}

func (p *pieces) push(b []byte) {
	p.list = append(p.list, b)
	p.bytes += cap(b)
}

// pop returns the oldest one. There is one.
func (p *pieces) pop() []byte {
	b := p.list[p.next]
	p.list[p.next] = nil
	p.bytes -= cap(b)
	if p.next++; p.next == len(p.list) {
		p.list, p.next = p.list[:0], 0
	}
	return b
}

// drop gives all of them back.
func (p *pieces) drop() {
	for !p.isEmpty() {
		PutBuffer(p.pop())
	}
}
