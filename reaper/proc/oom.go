package proc

import (
	"os"
	"strconv"
	"strings"
)

// MostOOMScoreAdj is the highest oom_score_adj: the OOM killer takes such a process
// before any other.
const MostOOMScoreAdj = 1000

// OOMScoreAdj returns how much a process is to be preferred by the OOM killer, from
// -1000 to 1000.
func OOMScoreAdj(pid int) (int, error) {
	text, err := os.ReadFile(oomFile(pid))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// SetOOMScoreAdj sets it. A higher value than the one that a process has needs no
// privilege.
func SetOOMScoreAdj(pid, adj int) error {
	return os.WriteFile(oomFile(pid), []byte(strconv.Itoa(adj)), 0)
}

func oomFile(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/oom_score_adj" }
