package testkit

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// startTimeout bounds how long a redis-server may take to answer; a loaded machine needs more than the
// usual few milliseconds.
const startTimeout = 20 * time.Second

// Redis returns a client of a redis-server of the test's own: empty, without persistence, gone with the
// test. It skips the test if there is no redis-server, unless REDIS_ADDR names one that may be flushed.
func Redis(t testing.TB) *redis.Client {
	t.Helper()
	bin, ok := findServer()
	if !ok {
		return redisAt(t, os.Getenv("REDIS_ADDR"))
	}
	dir := shortTempDir(t)
	sock := filepath.Join(dir, "s")
	s := &Server{
		t:    t,
		opts: redis.Options{Network: "unix", Addr: sock},
		args: []string{bin, "--dir", dir, "--port", "0", "--unixsocket", sock, "--save", "", "--appendonly", "no"},
	}
	t.Cleanup(s.Kill)
	s.Start()
	return s.Client()
}

// redisAt returns a client of the server at addr, emptied. Without an address it skips the test.
func redisAt(t testing.TB, addr string) *redis.Client {
	t.Helper()
	if addr == "" {
		skip(t, "no redis-server in PATH or REDIS_SERVER, and REDIS_ADDR is not set")
	}
	client := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = client.Close() })
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatalf("emptying the Redis at REDIS_ADDR: %v", err)
	}
	return client
}

// A Server is a redis-server child that a test may stop, kill and start again. It listens on a port of the
// loopback that stays the same, and its append-only file survives a kill.
type Server struct {
	Addr string // host:port

	t    testing.TB
	opts redis.Options
	args []string

	mu   sync.Mutex
	proc *os.Process   // nil while it does not run
	done chan struct{} // closed when proc has ended
}

// RedisServer starts a server with append-only persistence; extra arguments are passed on. It skips the
// test if there is no redis-server.
func RedisServer(t testing.TB, extra ...string) *Server {
	t.Helper()
	bin, ok := findServer()
	if !ok {
		skip(t, "no redis-server in PATH or REDIS_SERVER")
	}
	host, port := freePort(t)
	addr := net.JoinHostPort(host, port)
	args := []string{bin, "--dir", t.TempDir(), "--bind", host, "--port", port, "--save", "", "--appendonly", "yes"}
	s := &Server{Addr: addr, t: t, opts: redis.Options{Addr: addr}, args: append(args, extra...)}
	t.Cleanup(s.Kill)
	s.Start()
	return s
}

// Sentinel starts a sentinel with a configuration file of the test's own, which it rewrites.
func Sentinel(t testing.TB, config string) *Server {
	t.Helper()
	bin, ok := findServer()
	if !ok {
		skip(t, "no redis-server in PATH or REDIS_SERVER")
	}
	host, port := freePort(t)
	addr := net.JoinHostPort(host, port)
	s := &Server{Addr: addr, t: t, opts: redis.Options{Addr: addr},
		args: []string{bin, config, "--sentinel", "--dir", t.TempDir(), "--bind", host, "--port", port}}
	t.Cleanup(s.Kill)
	s.Start()
	return s
}

// URL returns the server's address as redis://host:port.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Client returns a new client of the server, closed at the end of the test.
func (s *Server) Client() *redis.Client {
	opts := s.opts
	client := redis.NewClient(&opts)
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// Start runs the server and returns when it answers. It does nothing if the server runs.
func (s *Server) Start() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		return
	}
	if err := s.run(); err != nil {
		s.t.Fatalf("starting redis-server: %v", err)
	}
	if err := s.await(); err != nil {
		s.t.Fatalf("waiting for redis-server: %v", err)
	}
}

// run starts the child. The goroutine that started it stays on its thread until the child ends, because
// the kernel's "kill me with my parent" (see [dieWithParent]) is tied to that thread.
func (s *Server) run() error {
	// The test's cleanup ends it, not the test's context, which ends before the other cleanups have run.
	cmd := exec.CommandContext(context.WithoutCancel(s.t.Context()), s.args[0], s.args[1:]...)
	cmd.SysProcAttr = dieWithParent()
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // a killed server is what the test asked for
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.proc, s.done = cmd.Process, done
	return nil
}

// await returns nil once the child itself answers, and not some other server on the same port.
func (s *Server) await() error {
	opts := s.opts
	client := redis.NewClient(&opts)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	want := strconv.Itoa(s.proc.Pid)
	for {
		info, err := client.InfoMap(ctx, "server").Result()
		if pid := info["Server"]["process_id"]; err == nil && pid == want {
			return nil
		} else if err == nil {
			err = fmt.Errorf("process %s answers, not %s", pid, want)
		}
		select {
		case <-s.done:
			s.proc = nil
			return fmt.Errorf("it ended at once (is %s in use?): %w", s.opts.Addr, err)
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Kill ends the server as kill -9 does and waits until it is gone. It does nothing if it does not run.
func (s *Server) Kill() { s.end(os.Kill) }

// Stop ends the server in good order (SIGTERM) and waits until it is gone.
func (s *Server) Stop() { s.end(sigTerm) }

func (s *Server) end(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return
	}
	_ = s.proc.Signal(sig) // fails only if it has ended by itself
	<-s.done
	s.proc = nil
}

// findServer returns the redis-server program: REDIS_SERVER, or the one in PATH.
func findServer() (string, bool) {
	if bin := os.Getenv("REDIS_SERVER"); bin != "" {
		return bin, true
	}
	bin, err := exec.LookPath("redis-server")
	return bin, err == nil
}

// shortTempDir returns a folder whose path leaves room for a socket: the kernel allows about 100 bytes,
// and t.TempDir contains the test's name.
func shortTempDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "ef") //nolint:usetesting // see above
	if err != nil {
		t.Fatalf("making a folder for redis-server: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// freePort returns the loopback and a port of it that was free a moment ago.
func freePort(t testing.TB) (host, port string) {
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("looking for a free port: %v", err)
	}
	defer l.Close()
	if host, port, err = net.SplitHostPort(l.Addr().String()); err != nil {
		t.Fatalf("looking for a free port: %v", err)
	}
	return host, port
}
