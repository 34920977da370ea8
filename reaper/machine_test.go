package reaper

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A program for another machine is not taken for a script.
func TestForeignProgram(t *testing.T) {
	dir := t.TempDir()
	header := func(machine uint16, order binary.AppendByteOrder, data byte) string {
		head := append([]byte{0x7f, 'E', 'L', 'F', 2, data, 1}, make([]byte, 11)...)
		return string(order.AppendUint16(head, machine)) + strings.Repeat("(", 100)
	}
	for name, tt := range map[string]struct{ file, want string }{
		"of s390x":      {header(22, binary.BigEndian, 2), "built for s390x, this machine is "},
		"of riscv":      {header(243, binary.LittleEndian, 1), "built for riscv64, this machine is "},
		"of nothing":    {header(9999, binary.LittleEndian, 1), "built for ELF machine 9999, this machine is "},
		"cut short":     {"\x7fELF\x02\x01\x01", ""},
		"of here":       {header(machineHere, binary.LittleEndian, 1), ""},
		"not a program": {"echo hello\n", ""},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(tt.file), 0o700); err != nil {
			t.Fatal(err)
		}
		if got := foreign(path); !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s: %q", name, got)
		}
		if tt.want == "" {
			continue
		}
		err := try([]string{path, "x"}, nil, "", func(path string, _ []string) error {
			return Exec([]string{path}, nil)
		})
		if err == nil || !strings.Contains(err.Error(), tt.want) || ExitCode(err) != 126 {
			t.Errorf("%s: %v, exit code %d", name, err, ExitCode(err))
		}
	}
	if got := foreign(filepath.Join(dir, "no")); got != "" {
		t.Errorf("a file that is not there: %q", got)
	}
}
