package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// deploy/docker/compose.yaml: that it is valid, that what it mounts is there, and
// that the pool and Redis of it work together. Prometheus and Grafana are not
// started: there are no programs to make their images of.

// compose returns a function that runs docker compose, which is a plugin or a
// program of its own, in a project of its own.
func compose(t *testing.T) func(args ...string) string {
	t.Helper()
	harness.NeedDocker(t)
	command := []string{"docker", "compose"}
	if exec.Command("docker", "compose", "version").Run() != nil {
		harness.Need(t, "docker-compose")
		command = []string{"docker-compose"}
	}
	command = append(command, "-p", fmt.Sprintf("poolinit-e2e-%d", os.Getpid()), "-f", "../../deploy/docker/compose.yaml")
	return func(args ...string) string {
		t.Helper()
		run := exec.Command(command[0], append(command[1:], args...)...)
		run.Env = append(os.Environ(), "POOL_PORT=", "STATUS_PORT=") // any port: another pool may have these
		out, err := run.Output()
		if err != nil {
			stderr := err.Error()
			if exit, ok := err.(*exec.ExitError); ok {
				stderr = string(exit.Stderr)
			}
			t.Fatalf("docker compose %q: %s\n%s", args, stderr, out)
		}
		return strings.TrimSpace(string(out))
	}
}

func TestImageComposeFile(t *testing.T) {
	run := compose(t)
	services := strings.Fields(run("config", "--services"))
	slices.Sort(services)
	if want := []string{"grafana", "pool", "prometheus", "redis"}; !slices.Equal(services, want) {
		t.Errorf("services %q, want %q", services, want)
	}
	file, err := os.ReadFile("../../deploy/docker/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	mounts := regexp.MustCompile(`(?m)^ +- (\.\.?/[^:]+):`).FindAllStringSubmatch(string(file), -1)
	for _, m := range mounts {
		if path := filepath.Join("../../deploy/docker", m[1]); !fileExists(path) {
			t.Errorf("%s is mounted, and is not there", path)
		}
	}
	if len(mounts) < 3 {
		t.Errorf("it mounts %q", mounts)
	}
	// They find each other by the services' names.
	for name, address := range map[string]string{
		"../../deploy/prometheus/prometheus.yml":                       `"pool:9090"`,
		"../../deploy/grafana/provisioning/datasources/prometheus.yml": "http://prometheus:9090",
		"../../deploy/grafana/provisioning/dashboards/poolinit.yml":    "/var/lib/grafana/dashboards",
	} {
		if text, err := os.ReadFile(name); err != nil || !strings.Contains(string(text), address) {
			t.Errorf("%s does not name %s: %v", name, address, err)
		}
	}
}

// Messages go through the pool into Redis.
func TestImageCompose(t *testing.T) {
	run := compose(t)
	product := productImage(t)
	tags := append(standIns(t, pythonBase(t), redisBase(t)),
		tag{name: "poolinit:latest", image: product, replace: true},
		tag{name: "poolinit-store", image: product, replace: true}) // it builds one of that name
	t.Cleanup(func() { run("down", "-v", "--timeout", "1") })
	_ = withTags(tags, func() error {
		run("up", "-d", "--build", "pool")
		return nil
	})
	pool := harness.ContainerOf(t, run("ps", "-q", "pool"))
	pool.ExpectLog("accepting messages", 1)
	address := regexp.MustCompile(`\d+\.\d+\.\d+\.\d+`).FindString(pool.Inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"))
	for n, message := range []string{"one", "two"} { // one after the other: two workers may change places
		harness.Send(t, strings.NewReader(message), "tcp://"+address+":8089?reply=always").Want(t, fmt.Sprintln(n+1), 0)
	}
	redis := harness.ContainerOf(t, run("ps", "-q", "redis"))
	if list := redis.Exec("redis-cli", "lrange", "messages", "0", "-1"); list != "one\ntwo" {
		t.Errorf("Redis has %q", list)
	}
	if owner := pool.Inspect("{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}"); owner != "65532:65532 true [ALL]" {
		t.Errorf("it runs as %s", owner)
	}
	run("stop", "pool")
	pool.ExpectLog("stopped: handled 2, spooled 0, lost 0, killed 0, ", 1)
	if code := pool.Wait(); code != "0" {
		t.Errorf("exit code %s\n%s", code, pool.Logs())
	}
}
