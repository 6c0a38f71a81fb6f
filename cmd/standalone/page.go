package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/internal/supervise"
)

// startPage starts the monitor as a child in group, so that whoever starts a fleet sees it too. A page that
// can't be served is no reason to end a fleet: that is said, and all else goes on.
func (a *app) startPage(ctx context.Context, group *errgroup.Group, redisURL string) error {
	if a.once || a.page.HostPort == "" {
		return nil
	}
	if _, err := os.Stat(a.monitor); err != nil {
		a.say("page", "none: %v; run make build, or name it by --monitor-binary", err)
		return nil
	}
	listener, err := a.page.Listen(ctx) // only to find a free port: the monitor opens it itself
	if err != nil {
		return fmt.Errorf("--page: %w", err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return fmt.Errorf("--page: %w", err)
	}
	file, err := a.logFile("monitor.log")
	if err != nil {
		return err
	}
	argv := []string{
		a.monitor, "--http", address, "--probes", "127.0.0.1:0", "--models", a.alias,
		"--log-level", a.log.Level, "--log-format", a.log.Format,
	}
	env := append(os.Environ(), "REDIS_URL="+redisURL, "EMBEDFLEET_REDIS_URL=")
	child := supervise.New(a.logger, "monitor", argv, env, &supervise.Options{Output: file, MinDelay: a.pause})
	a.say("page", "http://%s/", address)
	group.Go(func() error {
		defer file.Close()
		if err := child.Run(ctx); err != nil {
			a.say("page", "%v; it is not started again, the fleet goes on", err)
		}
		return nil
	})
	return nil
}
