package reaper

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Tests with ten thousand processes would spend their time in the dynamic linker
// of the shell, or in the page tables of a Go program that forks. So they start
// programs of 150 bytes, in machine code. Elsewhere than on amd64 these are the
// shell, and the test binary.

// exiter reads a byte from its stdin, which it may not have, and exits with the
// first byte of its first argument.
var exiter = []byte{
	0x31, 0xc0, // xor eax, eax (read)
	0x31, 0xff, // xor edi, edi
	0x48, 0x8d, 0x74, 0x24, 0x80, // lea rsi, [rsp-128]
	0xba, 1, 0, 0, 0, // mov edx, 1
	0x0f, 0x05, // syscall
	0x48, 0x8b, 0x74, 0x24, 0x10, // mov rsi, [rsp+16] (argv[1])
	0x0f, 0xb6, 0x3e, // movzx edi, byte [rsi]
	0xb8, 60, 0, 0, 0, // mov eax, 60 (exit)
	0x0f, 0x05, // syscall
}

// storm forks as often as the four bytes at stormCount say. Its children exit with
// 7 and are not waited for. It exits with 0, or 99 if it cannot fork.
var storm = []byte{
	0xbb, 0, 0, 0, 0, // mov ebx, count
	0xb8, 57, 0, 0, 0, // next: mov eax, 57 (fork)
	0x0f, 0x05, // syscall
	0x85, 0xc0, // test eax, eax
	0x78, 0x11, // js failed
	0x74, 0x08, // jz child
	0xff, 0xcb, // dec ebx
	0x75, 0xef, // jnz next
	0x31, 0xff, // xor edi, edi
	0xeb, 0x0c, // jmp exit
	0xbf, 7, 0, 0, 0, // child: mov edi, 7
	0xeb, 0x05, // jmp exit
	0xbf, 99, 0, 0, 0, // failed: mov edi, 99
	0xb8, 60, 0, 0, 0, // exit: mov eax, 60 (exit)
	0x0f, 0x05, // syscall
}

const stormCount = 1

// exits returns the arguments of a program that exits with a code, as soon as
// its stdin is closed or absent.
func exits(t *testing.T) func(code int) []string {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		return func(code int) []string { return []string{"/bin/sh", "-c", fmt.Sprint("read x; exit ", code)} }
	}
	name := executable(t, exiter)
	return func(code int) []string {
		if code == 0 {
			return []string{name, ""} // an argument cannot hold the byte 0, but it ends with one
		}
		return []string{name, string([]byte{byte(code)})}
	}
}

// playStorm returns a program that leaves n dead children behind that it never waited
// for: they all become the test's at once.
func playStorm(t *testing.T, n int) *Spec {
	t.Helper()
	spec := play("zombies", fmt.Sprint(n))
	if runtime.GOARCH == "amd64" {
		code := bytes.Clone(storm)
		binary.LittleEndian.PutUint32(code[stormCount:], uint32(n))
		spec.Args = []string{executable(t, code)}
	}
	return spec
}

// executable makes a program of machine code for amd64.
func executable(t *testing.T, code []byte) string {
	t.Helper()
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	var program bytes.Buffer
	program.WriteString("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for _, field := range []any{
		// The rest of the ELF header: an executable for x86-64 that begins after the headers.
		uint16(2), uint16(62), uint32(1), uint64(base + headers), uint64(64), uint64(0), uint32(0),
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		// The program header: load the whole file, to read and to execute.
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000),
	} {
		if err := binary.Write(&program, binary.LittleEndian, field); err != nil {
			t.Fatal(err)
		}
	}
	program.Write(code)
	name := filepath.Join(t.TempDir(), "tiny")
	if err := os.WriteFile(name, program.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}
