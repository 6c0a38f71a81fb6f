package deploy_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// A host runs the services of the Compose file as processes of this machine. What a container would see is
// translated: addresses of services into ports of the loopback, volumes and secrets into folders, files of the
// image into those that set-up brought. Command, environment, order, health checks and patience are the file's.
type host struct {
	t       *testing.T
	project *types.Project
	images  map[string]image
	bin     string            // our binaries, as the images hold them
	secrets string            // folder with one file each
	folders map[string]string // of volumes, by source
	ports   map[string]string // service/replica/port -> port of the loopback
	running []*container      // in the order of their start
}

// A container is one replica of a service.
type container struct {
	*host
	service types.ServiceConfig
	replica int
	name    string
	tr      *strings.Replacer
	log     syncBuffer
	proc    *os.Process
	done    chan struct{} // closed when the process has ended
	state   *os.ProcessState
}

// newHost builds our binaries, makes the secrets and chooses ports.
func newHost(t *testing.T, env ...string) *host {
	t.Helper()
	h := &host{
		t: t, project: load(t, env...), images: images(t), bin: t.TempDir(), secrets: filepath.Join(t.TempDir(), "secrets"),
		folders: map[string]string{}, ports: map[string]string{},
	}
	args := append([]string{"build", "-buildvcs=false", "-ldflags=-s -w", "-o", h.bin + "/"}, builds(t)...)
	build := exec.CommandContext(t.Context(), "go", args...)
	build.Dir = testkit.Root(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the roles: %v\n%s", err, out)
	}
	makeSecrets(t, h.secrets)
	for name, s := range h.project.Services {
		for i := range s.GetScale() {
			for _, port := range ports(s) {
				h.ports[key(name, i, port)] = freePort(t)
			}
		}
		for _, v := range s.Volumes {
			if v.Source != "" && v.Type == types.VolumeTypeVolume && h.folders[v.Source] == "" {
				h.folders[v.Source] = t.TempDir()
			}
		}
	}
	h.translateSecrets()
	t.Cleanup(func() {
		for _, c := range h.running {
			c.kill()
		}
	})
	return h
}

func key(service string, replica int, port string) string {
	return fmt.Sprintf("%s/%d/%s", service, replica, port)
}

// ports are those on which a container of the service listens.
func ports(s types.ServiceConfig) []string {
	list := slices.Clone([]string(s.Expose))
	for _, p := range s.Ports {
		list = append(list, strconv.Itoa(int(p.Target)))
	}
	return list
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// addresses are the replacements for names of services, as "redis:6379".
func (h *host) addresses() []string {
	var pairs []string
	for name, s := range h.project.Services {
		for _, port := range ports(s) {
			pairs = append(pairs, name+":"+port, "127.0.0.1:"+h.ports[key(name, 0, port)])
		}
	}
	return pairs
}

// translateSecrets puts the loopback into files that name a service.
func (h *host) translateSecrets() {
	tr := strings.NewReplacer(h.addresses()...)
	for name, text := range snapshot(h.t, h.secrets) {
		path := filepath.Join(h.secrets, name)
		if err := os.Remove(path); err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(tr.Replace(text)), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
}

// container returns a replica that does not run yet.
func (h *host) container(service string, replica int) *container {
	s := h.project.Services[service]
	var pairs []string
	for _, v := range s.Volumes {
		folder := v.Source
		switch {
		case folder == "": // each replica's own
			folder = h.t.TempDir()
		case v.Type == types.VolumeTypeVolume:
			folder = h.folders[v.Source]
		}
		pairs = append(pairs, v.Target, folder)
	}
	for _, secret := range s.Secrets {
		pairs = append(pairs, "/run/secrets/"+secret.Source, filepath.Join(h.secrets, filepath.Base(h.project.Secrets[secret.Source].File)))
	}
	if lib := h.image(s).env["ONNXRUNTIME_LIB"]; lib != "" {
		pairs = append(pairs, lib, testkit.ONNXRuntime(h.t))
	}
	for _, port := range ports(s) {
		here := "127.0.0.1:" + h.ports[key(service, replica, port)]
		pairs = append(pairs, "0.0.0.0:"+port, here, "127.0.0.1:"+port, here)
	}
	return &container{
		host: h, service: s, replica: replica, name: fmt.Sprintf("%s-%d", service, replica+1),
		tr: strings.NewReplacer(append(pairs, h.addresses()...)...), done: make(chan struct{}),
	}
}

// image is what the service's process begins with; that of a foreign image is unknown and empty.
func (h *host) image(s types.ServiceConfig) image {
	if s.Build == nil {
		return image{}
	}
	return h.images[s.Build.Target]
}

// command prepares argv in the container, with the container's environment and no more.
func (c *container) command(argv []string) *exec.Cmd {
	c.t.Helper()
	list := make([]string, len(argv))
	for i, word := range argv {
		list[i] = c.tr.Replace(word)
	}
	program := filepath.Join(c.bin, list[0])
	if _, err := os.Stat(program); c.service.Build == nil || err != nil {
		if program, err = exec.LookPath(list[0]); err != nil || c.service.Build != nil {
			c.t.Fatalf("%s: no program %q for it: %v", c.name, list[0], err)
		}
	}
	cmd := exec.CommandContext(c.t.Context(), program, list[1:]...)
	cmd.Dir = c.t.TempDir()
	for k, v := range c.image(c.service).env {
		cmd.Env = append(cmd.Env, k+"="+c.tr.Replace(v))
	}
	for k, v := range c.service.Environment {
		cmd.Env = append(cmd.Env, k+"="+c.tr.Replace(*v)) // the last one counts, as in a container
	}
	return cmd
}

// start runs the service's own command. The goroutine that starts it stays on its thread until the child has
// ended, because the kernel's "kill me with my parent" is tied to that thread.
func (c *container) start() *container {
	c.t.Helper()
	img := c.image(c.service)
	argv := append(slices.Clone(img.entrypoint), c.service.Command...)
	if len(c.service.Entrypoint) > 0 {
		argv = append(slices.Clone([]string(c.service.Entrypoint)), c.service.Command...)
	}
	if c.service.Name == "redis" { // its image listens on 6379 without being told
		argv = append(argv, "--bind", "127.0.0.1", "--port", c.ports[key("redis", 0, "6379")])
	}
	cmd := c.command(argv)
	cmd.Stdout, cmd.Stderr = &c.log, &c.log
	cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(c.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its state tells
			c.state = cmd.ProcessState
		}
	}()
	if err := <-started; err != nil {
		c.t.Fatalf("%s: %v", c.name, err)
	}
	c.proc = cmd.Process
	c.running = append(c.running, c)
	return c
}

// check runs the health check of the file once.
func (c *container) check() (string, error) {
	test := c.service.HealthCheck.Test
	if test[0] != "CMD" {
		c.t.Fatalf("%s: a health check without a shell begins with CMD: %q", c.name, test)
	}
	out, err := c.command(test[1:]).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// healthy waits until the health check passes, and fails the test if the process ends before.
func (c *container) healthy() {
	c.t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		out, err := c.check()
		if err == nil {
			return
		}
		select {
		case <-c.done:
			c.t.Fatalf("%s ended (%v):\n%s", c.name, c.state, c.log.String())
		case <-deadline:
			c.t.Fatalf("%s is not healthy: %s\n%s", c.name, out, c.log.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// exits waits for the end and returns the exit status.
func (c *container) exits(patience time.Duration) int {
	c.t.Helper()
	select {
	case <-c.done:
		return c.state.ExitCode()
	case <-time.After(patience):
		c.t.Fatalf("%s still runs after %v:\n%s", c.name, patience, c.log.String())
		return -1
	}
}

func (c *container) terminate() { _ = c.proc.Signal(syscall.SIGTERM) } // it may have ended

func (c *container) kill() {
	_ = c.proc.Kill()
	<-c.done
}

// exec runs a program inside, as `docker compose exec` does, and returns what it prints.
func (c *container) exec(stdin io.Reader, argv ...string) string {
	c.t.Helper()
	cmd := c.command(argv)
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stderr = stdin, &errs
	late := time.AfterFunc(2*time.Minute, func() { _ = cmd.Cancel() })
	defer late.Stop()
	out, err := cmd.Output()
	if err != nil {
		for _, other := range c.running {
			text := other.log.String()
			c.t.Logf("%s: ...%s", other.name, text[max(0, len(text)-2000):])
		}
		c.t.Fatalf("%s: %q: %v\n%s%s", c.name, argv, err, out, errs.String())
	}
	return string(out)
}

// url is where port of the container is served.
func (c *container) url(port, path string) string {
	return "http://127.0.0.1:" + c.ports[key(c.service.Name, c.replica, port)] + path
}

// A syncBuffer may be read while it is written to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
