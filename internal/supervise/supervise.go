// Package supervise keeps a child process running: it restarts one that ends, with back-off, stops trying
// when it crashes too often, and ends it in two phases. It knows nothing of what the child does.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// ErrGaveUp is wrapped by Run's error when the child crashed too often.
var ErrGaveUp = errors.New("crashes too often")

// Options change how a child is kept; the zero value of a field means its default.
type Options struct {
	Crashes  int           // crashes within Window after which it gives up; default 5
	Window   time.Duration // default 10 min
	MinDelay time.Duration // wait before the first restart, doubled at each further crash; default 1 s
	MaxDelay time.Duration // default 30 s
	Grace    time.Duration // between SIGTERM and SIGKILL; default 30 s
	Output   io.Writer     // the child's stdout and stderr; nil discards them
	// Final reports whether an exit status means that a restart can't help, such as a bad command line.
	Final func(status int) bool
}

func (o *Options) withDefaults() Options {
	var out Options
	if o != nil {
		out = *o
	}
	set := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	set(&out.Window, 10*time.Minute)
	set(&out.MinDelay, time.Second)
	set(&out.MaxDelay, 30*time.Second)
	set(&out.Grace, 30*time.Second)
	if out.Crashes == 0 {
		out.Crashes = 5
	}
	if out.Final == nil {
		out.Final = func(int) bool { return false }
	}
	return out
}

// A Child is one process that is kept running.
type Child struct {
	log  *slog.Logger
	name string
	argv []string
	env  []string
	opts Options
}

// New returns a child that Run will start as argv with the environment env (nil: this process's own).
func New(log *slog.Logger, name string, argv, env []string, opts *Options) *Child {
	return &Child{log: log.With("child", name), name: name, argv: argv, env: env, opts: opts.withDefaults()}
}

// Run starts the child and starts it again whenever it ends, until ctx ends; then it sends SIGTERM, after
// the grace period SIGKILL, and returns nil once the process is gone. It returns an error if the child
// can't be started, ends with a final status, or crashes too often ([ErrGaveUp]).
func (c *Child) Run(ctx context.Context) error {
	var crashes []time.Time
	delay := c.opts.MinDelay
	for err := c.once(ctx); ctx.Err() == nil; err = c.once(ctx) {
		var exit *exec.ExitError
		if !errors.As(err, &exit) && err != nil {
			return fmt.Errorf("starting %s: %w", c.name, err)
		}
		if exit != nil && c.opts.Final(exit.ExitCode()) {
			return fmt.Errorf("%s ended with status %d", c.name, exit.ExitCode())
		}
		now := time.Now()
		crashes = append(recent(crashes, now.Add(-c.opts.Window)), now)
		if len(crashes) == 1 {
			delay = c.opts.MinDelay
		}
		if len(crashes) >= c.opts.Crashes {
			return fmt.Errorf("%s: %w: %d times in %v, last: %s", c.name, ErrGaveUp, len(crashes), c.opts.Window, describe(err))
		}
		c.log.Warn("child ended, restarting", "how", describe(err), "crashes", len(crashes), "in", delay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, c.opts.MaxDelay)
	}
	return nil
}

func describe(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func recent(times []time.Time, after time.Time) []time.Time {
	var out []time.Time
	for _, t := range times {
		if t.After(after) {
			out = append(out, t)
		}
	}
	return out
}

// once runs the process from start to end. The start and the wait share one locked thread, because Linux
// ties "end with your parent" to the thread that started the child, and Go ends idle threads.
func (c *Child) once(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Env = c.env
	cmd.Stdout, cmd.Stderr = c.opts.Output, c.opts.Output
	cmd.SysProcAttr = processAttributes()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = c.opts.Grace
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			c.log.Debug("child started", "pid", cmd.Process.Pid)
			err = cmd.Wait()
		}
		done <- err
	}()
	return <-done
}
