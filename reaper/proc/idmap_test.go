package proc

import (
	"os"
	"testing"
)

func TestIDMap(t *testing.T) {
	m := parseMap([]byte("         0     100000       1000\n     65534      70000          1\n"))
	for id, want := range map[uint32]bool{0: true, 999: true, 1000: false, 65533: false, 65534: true, 65535: false, 1 << 31: false} {
		if got := m.Has(id); got != want {
			t.Errorf("%d: %v", id, got)
		}
	}
	if got := m.String(); got != "0-999, 65534" {
		t.Errorf("%q", got)
	}
	if !IDMap(nil).Has(7) || parseMap([]byte("0 0 x\n")) != nil || parseMap([]byte("0 1\n")) != nil {
		t.Error("a map that is not known does not have all ids")
	}
	if !UserMap().Has(uint32(os.Geteuid())) || !GroupMap().Has(uint32(os.Getegid())) {
		t.Errorf("this process's own ids are not in %v, %v", UserMap(), GroupMap())
	}
}
