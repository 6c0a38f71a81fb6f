package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/internal/supervise"
	"github.com/embedfleet/embedfleet/queue"
)

const (
	alias = "minilm"
	// outage is how long Redis stays away after a kill.
	outage = 2 * time.Second
)

// A victim is a process that is killed, and that its supervisor starts again.
type victim struct {
	name string

	mu     sync.Mutex
	proc   *os.Process // the latest; it may have ended
	deaths []time.Time // however they came about
	kills  int         // of these, ours
}

// kill is a kill -9. It reports false if nobody was there to die.
func (v *victim) kill() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.proc == nil || v.proc.Kill() != nil { // of a process that was waited for it is an error, not a wrong target
		return false
	}
	v.kills++
	v.proc = nil // so that nobody is counted twice
	return true
}

func (v *victim) started(p *os.Process) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.proc = p
}

func (v *victim) died(supervise.Crash) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.deaths = append(v.deaths, time.Now())
}

// counts returns how often it died, and how often by our hand.
func (v *victim) counts() (deaths, kills int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.deaths), v.kills
}

// deaths returns when workers died, in order.
func (s *stage) deaths() []time.Time {
	var list []time.Time
	for _, v := range s.workers {
		v.mu.Lock()
		list = append(list, v.deaths...)
		v.mu.Unlock()
	}
	slices.SortFunc(list, time.Time.Compare)
	return list
}

// A stage is where it happens: Redis and the workers, each under a supervisor.
type stage struct {
	plan
	log     *slog.Logger
	dir     string // of Redis's file and the logs
	root    *os.Root
	conn    queue.Conn
	url     string
	redis   *victim
	workers []*victim
}

// open makes the stage in a folder. Nothing runs yet.
func (p plan) open(ctx context.Context, log *slog.Logger, dir string) (*stage, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the folder: %w", err)
	}
	l, err := boot.Address{HostPort: "127.0.0.1:0"}.Listen(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking for a port: %w", err)
	}
	s := &stage{plan: p, log: log, dir: dir, root: root, url: "redis://" + l.Addr().String(), redis: &victim{name: "redis"}}
	if err := l.Close(); err != nil {
		return nil, fmt.Errorf("looking for a port: %w", err)
	}
	for i := range p.workers {
		s.workers = append(s.workers, &victim{name: "worker-" + strconv.Itoa(i+1)})
	}
	s.conn, err = queue.Parse(s.url)
	return s, err
}

// run keeps Redis and the workers running until ctx ends.
func (s *stage) run(ctx context.Context) error {
	host, port, err := net.SplitHostPort(s.url[len("redis://"):])
	if err != nil {
		return err
	}
	redis := []string{
		"redis-server", "--bind", host, "--port", port, "--dir", s.dir, "--daemonize", "no", "--logfile", "", "--save", "",
		"--appendonly", "yes", "--appendfsync", s.fsync, "--maxmemory-policy", "noeviction",
	}
	worker := []string{
		s.worker, "--model", s.model, "--alias", alias, "--redis-url", s.url, "--onnxruntime", s.library, "--cache", s.cache,
		"--http", "127.0.0.1:0", "--runners", "1", "--grace", "5s", "--ahead", s.ahead.String(),
	}
	if s.leases > 0 {
		worker = append(worker, "--concurrency", strconv.Itoa(s.leases))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.keep(ctx, s.redis, redis, outage) })
	for _, v := range s.workers {
		group.Go(func() error { return s.keep(ctx, v, worker, 500*time.Millisecond) })
	}
	return group.Wait()
}

// keep keeps one process running; its lines go to a file.
func (s *stage) keep(ctx context.Context, v *victim, argv []string, pause time.Duration) error {
	out, err := s.root.Create(v.name + ".log")
	if err != nil {
		return fmt.Errorf("making a log: %w", err)
	}
	defer out.Close()
	return supervise.New(s.log, v.name, argv, nil, &supervise.Options{
		Crashes: 1 << 30, MinDelay: pause, MaxDelay: pause, Grace: 10 * time.Second, Output: io.Writer(out),
		Final:   func(status int) bool { return status == boot.StatusUsage || status == boot.StatusModel },
		Started: v.started, Crashed: v.died,
	}).Run(ctx)
}

// connect returns the fleet as soon as Redis answers.
func (s *stage) connect(ctx context.Context) (*fleet.Fleet, error) {
	for {
		f, err := fleet.Open(ctx, s.conn)
		if err == nil {
			return f, nil
		}
		if rest(ctx, 50*time.Millisecond) != nil {
			return nil, err
		}
	}
}

// rest waits, or returns why ctx has ended.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
