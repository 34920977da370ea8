package reaper

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// childHidden hides its memory, and says what starts as another user make of that.
func childHidden([]string) int {
	r := NewPlain(nil)
	defer r.Close()
	fmt.Println(isHidden())
	if err := HideMemory(); err != nil {
		fmt.Println(err)
		return 1
	}
	for _, uid := range []uint32{54321, 54322} {
		p, err := r.Start(&Spec{Args: []string{"true"}, Env: []string{"PATH=/usr/bin:/bin"}, Files: []uintptr{0, 1, 2}, Credential: &syscall.Credential{Uid: uid, Gid: uid}})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		<-p.Exited()
		fmt.Println(isHidden())
	}
	return 0
}

// A child that becomes another user before exec shares this program's memory, and with
// fs.suid_dumpable=1 shows it to all again.
func TestStartsKeepMemoryHidden(t *testing.T) {
	if os.Geteuid() != 0 {
		strict.Skip(t, "only root may start programs as another user")
	}
	out, err := testkit.Child("hidden").Output()
	if string(out) != "false\ntrue\ntrue\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}
