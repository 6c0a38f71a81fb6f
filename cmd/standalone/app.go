package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/search"
)

// An app is one run of the command.
type app struct {
	settings
	streams
	logger *slog.Logger
	fleet  *fleet.Fleet
	search *search.Service
	crew   crew
}

func newApp(set settings, s streams) *app {
	return &app{settings: set, streams: s, logger: set.log.Logger(s.err)}
}

// run starts everything in order (Redis, HTTP, workers, sample) and ends it in reverse: the HTTP server
// first, then the workers, which drain, and Redis last.
func (a *app) run(ctx context.Context) error {
	lock, err := lockData(a.data)
	if err != nil {
		return err
	}
	defer lock.Release()
	redis, err := a.openRedis(ctx)
	if err != nil {
		return err
	}
	defer redis.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := background(ctx, cancel, redis.run)
	err = a.withRedis(ctx, redis)
	if stopErr := stop(); stopErr != nil {
		return stopErr // what befell Redis explains whatever came after
	}
	return err
}

// background runs f beside the caller. It outlives ctx: stop ends it and returns its error. If f ends
// before, it calls failed.
func background(ctx context.Context, failed func(), f func(context.Context) error) (stop func() error) {
	if f == nil {
		return func() error { return nil }
	}
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		done <- f(inner)
		failed()
	}()
	return func() error { cancel(); return <-done }
}

func (a *app) withRedis(ctx context.Context, redis *server) error {
	if err := a.awaitRedis(ctx, redis.conn); err != nil {
		return err
	}
	var err error
	if a.fleet, err = fleet.Open(ctx, redis.conn); err != nil {
		return err
	}
	defer a.fleet.Close()
	a.search = a.fleet.Search(a.logger, a.alias, nil)

	listener, err := a.http.Listen(ctx)
	if err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	ending, end := context.WithCancel(ctx)
	defer end()
	group, inner := errgroup.WithContext(ending)
	group.Go(func() error { return a.serve(inner, listener) })
	group.Go(func() error {
		defer end()
		return a.work(inner, group, redis, listener.Addr())
	})
	err = group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // a person ended it
	}
	return err
}

// work starts the workers in group, runs the sample, and returns when there is nothing left to do.
func (a *app) work(ctx context.Context, group *errgroup.Group, redis *server, addr net.Addr) error {
	if a.http.Spare && addr.String() != a.http.HostPort {
		a.say("http", "%s is taken by another process, using another port", a.http.HostPort)
	}
	a.say("http", "http://%s/v1/search?q=TEXT&k=5", addr)
	inner, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	quiet, err := a.startWorkers(ctx, group, redis.url, lost)
	if err != nil {
		return err
	}
	if err := a.startPage(ctx, group, redis.url); err != nil {
		return err
	}
	err = a.show(inner, group, redis, quiet)
	switch why := context.Cause(inner); {
	case errors.Is(why, errNoWorkers) && a.once:
		return why
	case errors.Is(why, errNoWorkers):
		a.say("worker", "%v; tasks stay queued until one runs again", why)
	case err != nil || a.once:
		return err
	}
	a.say("serving", "until Ctrl-C; logs are in %s", filepath.Join(a.data, "logs"))
	<-ctx.Done()
	return nil
}

// show waits for the first worker, then runs what was asked for.
func (a *app) show(ctx context.Context, group *errgroup.Group, redis *server, quiet func()) error {
	if err := a.awaitWorker(ctx); err != nil {
		return err
	}
	quiet()
	if a.sample {
		if err := a.runSample(ctx); err != nil {
			return err
		}
	}
	if a.demo {
		return a.runDemo(ctx, group, redis)
	}
	return nil
}

// serve answers HTTP until ctx ends, then lets requests under way finish for a moment.
func (a *app) serve(ctx context.Context, l net.Listener) error {
	models := []gateway.Model{{Alias: a.alias, Search: a.search}}
	handler, err := gateway.New(a.logger, a.fleet.Gateway(a.logger, models), nil)
	if err != nil {
		return err
	}
	batches := make(chan struct{})
	stopped, stop := context.WithCancel(ctx)
	go func() {
		defer close(batches)
		_ = a.fleet.Batches(a.logger, rand.Text(), models).Run(stopped) // it returns nil
	}()
	defer func() { stop(); <-batches }()
	srv := gateway.NewServer(a.logger, handler)
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = srv.Shutdown(grace) // those who are still there after the grace are cut off by the process's end
	}()
	err = srv.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		<-done
		return nil
	}
	return fmt.Errorf("serving HTTP: %w", err)
}

// logFile opens a log in the data folder for appending.
func (a *app) logFile(name string) (*os.File, error) {
	dir := filepath.Join(a.data, "logs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the log folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	return f, nil
}
