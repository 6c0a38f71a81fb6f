package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/filelock"
	"github.com/embedfleet/embedfleet/internal/supervise"
	"github.com/embedfleet/embedfleet/queue"
)

const (
	redisPort  = "6379"
	redisStart = time.Minute // an append-only file of some gigabytes loads in that time
	// redisSilence is how long nobody is told that it is waited for.
	redisSilence = time.Second
)

// A server is the Redis that the fleet uses.
type server struct {
	url  string
	conn queue.Conn
	// run keeps it running until ctx ends; nil if there is nothing to run.
	run func(ctx context.Context) error
	// close ends what lives in this process.
	close func()
}

// openRedis settles which Redis is used, and says so: the one that was named, else a redis-server child
// with an append-only file in the data folder, else an in-process one that survives nothing.
func (a *app) openRedis(ctx context.Context) (*server, error) {
	if a.redisURL != "" {
		conn, err := queue.Parse(a.redisURL)
		if err != nil {
			return nil, boot.Usagef("--redis-url: %w", err)
		}
		a.say("redis", "%v", conn)
		return &server{url: a.redisURL, conn: conn, close: func() {}}, nil
	}
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return a.inProcess()
	}
	return a.redisChild(ctx, binary)
}

func (a *app) inProcess() (*server, error) {
	m, err := miniredis.Run()
	if err != nil {
		return nil, fmt.Errorf("starting the in-process Redis: %w", err)
	}
	url := "redis://" + m.Addr()
	conn, err := queue.Parse(url)
	a.say("redis", "no redis-server in PATH: an in-process stand-in on %s; nothing will survive this process", m.Addr())
	return &server{url: url, conn: conn, close: m.Close}, err
}

// redisChild starts redis-server on the usual port, or on a free one if that is taken.
func (a *app) redisChild(ctx context.Context, binary string) (*server, error) {
	dir := filepath.Join(a.data, "redis")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	output, err := a.logFile("redis.log")
	if err != nil {
		return nil, err
	}
	argv := []string{
		binary, "--bind", "127.0.0.1", "--port", port, "--dir", dir, "--daemonize", "no", "--logfile", "",
		"--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction",
	}
	child := supervise.New(a.logger, "redis", argv, nil, &supervise.Options{Output: output})
	url := "redis://127.0.0.1:" + port
	conn, err := queue.Parse(url)
	if err != nil {
		return nil, err
	}
	a.say("redis", "child process on 127.0.0.1:%s, append-only file in %s", port, dir)
	run := func(ctx context.Context) error {
		if err := child.Run(ctx); err != nil {
			return fmt.Errorf("%w; %s says why", err, output.Name())
		}
		return nil
	}
	return &server{url: url, conn: conn, run: run, close: func() { _ = output.Close() }}, nil
}

// freePort returns the usual port if nobody listens there, else one that the system calls free.
func freePort(ctx context.Context) (string, error) {
	l, err := boot.Address{HostPort: net.JoinHostPort("127.0.0.1", redisPort), Spare: true}.Listen(ctx)
	if err != nil {
		return "", fmt.Errorf("finding a port for Redis: %w", err)
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return "", fmt.Errorf("finding a port for Redis: got %v", l.Addr())
	}
	return strconv.Itoa(addr.Port), nil
}

// awaitRedis returns when Redis serves: a child takes a moment to start and longer to load its file. A person
// who waits is told what for, and why as soon as that is known, which the client takes some seconds for.
func (a *app) awaitRedis(ctx context.Context, conn queue.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, redisStart)
	defer cancel()
	rdb := conn.Client()
	defer rdb.Close()
	told := make(chan struct{})
	telling := time.AfterFunc(redisSilence, func() {
		defer close(told)
		a.say("redis", "%v does not answer yet, waiting for at most %v", conn, redisStart)
	})
	defer func() {
		if !telling.Stop() {
			<-told
		}
	}()
	why := told
	for {
		err := rdb.Ping(ctx).Err()
		if err == nil {
			return nil
		}
		select {
		case <-why:
			a.say("redis", "%v", err)
			why = nil // once
		default:
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %v: %w", conn, lastError(ctx, err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lastError prefers what Redis said to "deadline exceeded".
func lastError(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, redis.ErrClosed) {
		return context.Cause(ctx)
	}
	return err
}

// lockData keeps a second standalone out of the data folder: two redis-servers on one append-only file
// would destroy it.
func lockData(dir string) (*filelock.Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	lock, err := filelock.Try(filepath.Join(dir, "standalone.lock"))
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fmt.Errorf("data folder %s is in use by another standalone; end that one or choose another folder by --data", dir)
	}
	return lock, err
}
