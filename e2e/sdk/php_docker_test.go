package sdk

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// phpImage makes an image of the host's own php, poolinit, the SDK and the
// seed's programs, with the program as its ENTRYPOINT, and returns its name.
func phpImage(t *testing.T, program string) string {
	t.Helper()
	harness.NeedDocker(t)
	needPHPModules(t, "pcntl", "posix")
	out, err := exec.Command("php", "-r", `echo PHP_BINARY, "\n", PHP_EXTENSION_DIR, "\n", php_ini_loaded_file(), "\n", str_replace(",", "", php_ini_scanned_files());`).Output()
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(out))
	libraries, _ := filepath.Glob(filepath.Join(words[1], "*.so"))
	var rootfs bytes.Buffer
	w := harness.NewImageWriter(&rootfs)
	w.Program("/usr/bin/php", words[0])
	for _, lib := range libraries {
		w.Program(lib, lib)
	}
	for _, ini := range words[2:] {
		w.File(ini, ini)
	}
	w.Program("/usr/local/bin/poolinit", harness.Binary(t))
	for _, name := range []string{"Pool.php", "swoole.php"} {
		w.File("/app/"+name, sdkPHP(t, name))
	}
	for _, name := range []string{"program3.php", "program4.php", "client.php"} {
		w.File("/app/"+name, seedProgram(t, name))
	}
	w.Dir("/tmp", 0o1777)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("poolinit-e2e-php:%d-%08x", os.Getpid(), rand.Uint32())
	cmd := exec.Command("docker", "import", "--change", `ENTRYPOINT ["php","-d","auto_prepend_file=swoole.php","`+program+`"]`,
		"--change", "WORKDIR /app", "-", name)
	cmd.Stdin = &rootfs
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docker import: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "-f", name).Run() })
	return name
}

// startPHPImage is docker run -d.
func startPHPImage(t *testing.T, image string, options ...string) *harness.Container {
	t.Helper()
	c := harness.ContainerOf(t, harness.ContainerName(t))
	harness.Docker(t, append(append([]string{"run", "-d", "--name", c.Name}, options...), image)...)
	return c
}

// The seed's program is the container's ENTRYPOINT, unchanged: php becomes
// poolinit, and stays PID 1.
func TestSDKPHPDocker(t *testing.T) {
	t.Parallel()
	c := startPHPImage(t, phpImage(t, "program4.php"))
	c.ExpectLog("Worker#0 is started\n", 1)
	c.ExpectLog("Worker#1 is started\n", 1)
	if name := c.Exec("php", "-r", "echo file_get_contents('/proc/1/comm');"); name != "poolinit" {
		t.Errorf("PID 1 is %q", name)
	}
	for n := 1; n <= 5; n++ {
		c.Exec("php", "client.php")
		c.ExpectLog(`Message: {"data":"hello","uid":1991}`+"\n", n)
	}
	c.Kill("USR1")
	c.ExpectLog("reload done", 1)
	c.ExpectLog("Worker#0 is started\n", 2)
	c.ExpectLog("Worker#1 is started\n", 2)
	c.Exec("php", "client.php")
	c.ExpectLog(`Message: {"data":"hello","uid":1991}`+"\n", 6)
	c.Stop(120)
	if code := c.Wait(); code != "0" {
		t.Errorf("exit code %s\n%s", code, c.Logs())
	}
	c.ExpectLog("stopped: handled 6, spooled 0, lost 0, killed 0, ", 1)
}

// From outside it is reached as the environment says.
func TestSDKPHPDockerEnvironment(t *testing.T) {
	t.Parallel()
	c := startPHPImage(t, phpImage(t, "program4.php"), "-e", "POOLINIT_LISTEN=tcp://0.0.0.0:8089?reply=always", "-e", "POOLINIT_WORKERS=3")
	c.ExpectLog("accepting messages", 1)
	addr := "tcp://" + c.Inspect("{{.NetworkSettings.IPAddress}}") + ":8089"
	harness.Send(t, strings.NewReader(harness.Seq(100)), "--reply", addr).Want(t, strings.Repeat("\n", 100), 0)
	c.ExpectLog("Message: 100\n", 1)
	c.ExpectLog("Worker#2 is started\n", 1)
	c.Stop(120)
	if code := c.Wait(); code != "0" {
		t.Errorf("exit code %s\n%s", code, c.Logs())
	}
}

// A queue is fed from another container of the same IPC namespace.
func TestSDKPHPDockerQueue(t *testing.T) {
	t.Parallel()
	needPHPModules(t, "sysvmsg")
	image := phpImage(t, "program3.php")
	c := startPHPImage(t, image, "--ipc", "shareable")
	c.ExpectLog("accepting messages", 1)
	harness.Docker(t, "run", "--rm", "--ipc", "container:"+c.Name, "--entrypoint", "php", image, "-r",
		`$q = msg_get_queue(0x7000001); for ($i = 1; $i <= 100; $i++) msg_send($q, 1, "job $i", false) || exit(1);`)
	for n := range 100 {
		c.ExpectLog(fmt.Sprintf("Message: job %d\n", n+1), 1)
	}
	c.Stop(120)
	c.ExpectLog("stopped: handled 100, spooled 0, lost 0, killed 0, ", 1)
}
