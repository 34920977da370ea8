package proc

import "testing"

func TestRunsScript(t *testing.T) {
	for line, want := range map[string]string{
		"/bin/sh\x00-c\x00/poolinit -- php worker.php\x00": "/bin/sh -c",
		"bash\x00/entry.sh\x00":                            "bash /entry.sh",
		"/bin/busybox\x00sh\x00":                           "/bin/busybox sh",
		"bash\x00":                                         "",
		"/sbin/init\x00splash\x00":                         "",
		"":                                                 "",
	} {
		if got := runsScript([]byte(line)); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
