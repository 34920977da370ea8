package reaper

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
)

// A daemon is named: it has left its parent and its group. Those in the group of a
// process, and processes that began before, are not.
func TestAdopted(t *testing.T) {
	if !IsSubreaper() {
		if err := BecomeSubreaper(); err != nil {
			t.Fatal(err)
		}
	}
	r := newTest(t, nil)
	before := time.Now()
	p := start(t, r, &Spec{Args: []string{"sh", "-c", "setsid sleep 1000 & sleep 1001 &"}, Env: []string{"PATH=/bin:/usr/bin"}, NewGroup: true})
	testkit.Wait(t, "exit", p.Exited())
	var found []Left
	testkit.Eventually(t, "the daemon is found", func() (any, bool) {
		found = r.Adopted(before)
		return found, len(found) == 1 && found[0].Name == "sleep"
	})
	t.Cleanup(func() { _ = unix.Kill(found[0].PID, syscall.SIGKILL) })
	if late := r.Adopted(time.Now().Add(time.Second)); slices.Contains(late, found[0]) {
		t.Errorf("%v began later", late)
	}
	_ = p.SignalGroup(syscall.SIGKILL)
	testkit.Wait(t, "the rest of the group", p.Gone())
}
