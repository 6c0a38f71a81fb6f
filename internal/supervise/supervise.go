// Package supervise keeps a child process running: it restarts one that ends, with back-off, stops trying
// when it crashes too often, and ends it in two phases. It knows nothing of what the child does.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// The crash rule: so many crashes within so long, and nobody tries again.
const (
	Crashes = 5
	Window  = 10 * time.Minute
)

// ErrGaveUp is wrapped by Run's error when the child crashed too often.
var ErrGaveUp = errors.New("crashes too often")

// Options change how a child is kept; the zero value of a field means its default.
type Options struct {
	Crashes  int           // crashes within Window after which it gives up; default [Crashes]
	Window   time.Duration // default [Window]
	MinDelay time.Duration // wait before the first restart, doubled at each further crash; default 1 s
	MaxDelay time.Duration // default 30 s
	Grace    time.Duration // between SIGTERM and SIGKILL; default 30 s
	Output   io.Writer     // the child's stdout and stderr; nil discards them
	// Final reports whether an exit status means that a restart can't help, such as a bad command line, or is
	// not wanted, such as the 0 of a child that was told to end. Nil: every end is a crash.
	Final func(status int) bool
	// Started is told of each process right after its start; signalling one that has ended does nothing. Nil:
	// nobody looks.
	Started func(*os.Process)
	// Env is asked before each start for what to add to the environment; crashes is how often the child crashed
	// so far, ever. Nil adds nothing.
	Env func(crashes int) []string
	// Crashed is told of each crash before the pause that follows it, or of the last one. Nil: nobody looks.
	Crashed func(Crash)
}

// A Crash is an end of a child that nobody wanted.
type Crash struct {
	How    string        // exit status or signal
	PID    int           // of the process that ended
	Count  int           // crashes so far, ever
	Recent int           // of these, within the window
	Again  time.Duration // when it is started again; 0 is never
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
	set(&out.Window, Window)
	set(&out.MinDelay, time.Second)
	set(&out.MaxDelay, 30*time.Second)
	set(&out.Grace, 30*time.Second)
	if out.Crashes == 0 {
		out.Crashes = Crashes
	}
	if out.Final == nil {
		out.Final = func(int) bool { return false }
	}
	if out.Started == nil {
		out.Started = func(*os.Process) {}
	}
	if out.Env == nil {
		out.Env = func(int) []string { return nil }
	}
	if out.Crashed == nil {
		out.Crashed = func(Crash) {}
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
	pid  int // of the latest process; Run's goroutine only, once that has ended
}

// New returns a child that Run will start as argv with the environment env (nil: this process's own).
func New(log *slog.Logger, name string, argv, env []string, opts *Options) *Child {
	return &Child{log: log.With("child", name), name: name, argv: argv, env: env, opts: opts.withDefaults()}
}

// Run starts the child and starts it again whenever it ends, until ctx ends; then it sends SIGTERM, after
// the grace period SIGKILL, and returns nil once the process is gone. It returns nil also if the child ends
// with status 0 and that is final, and an error if it can't be started, ends with another final status, or
// crashes too often ([ErrGaveUp]).
func (c *Child) Run(ctx context.Context) error {
	var crashes []time.Time
	delay, count := c.opts.MinDelay, 0
	for err := c.once(ctx, count); ctx.Err() == nil; err = c.once(ctx, count) {
		var exit *exec.ExitError
		if !errors.As(err, &exit) && err != nil {
			return fmt.Errorf("starting %s: %w", c.name, err)
		}
		status := 0
		if exit != nil {
			status = exit.ExitCode() // -1 for a signal
		}
		if c.opts.Final(status) {
			if status == 0 {
				return nil
			}
			return fmt.Errorf("%s ended with status %d", c.name, status)
		}
		count++
		now := time.Now()
		crashes = append(Recent(crashes, now.Add(-c.opts.Window)), now)
		if len(crashes) == 1 {
			delay = c.opts.MinDelay
		}
		crash := Crash{How: describe(err), PID: c.pid, Count: count, Recent: len(crashes), Again: delay}
		if len(crashes) >= c.opts.Crashes {
			crash.Again = 0
			c.opts.Crashed(crash)
			return fmt.Errorf("%s: %w: %d times in %v, last: %s", c.name, ErrGaveUp, len(crashes), c.opts.Window, crash.How)
		}
		c.log.Warn("child ended, restarting", "how", crash.How, "crashes", len(crashes), "in", delay)
		c.opts.Crashed(crash)
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

// Recent returns the times that are after one.
func Recent(times []time.Time, after time.Time) []time.Time {
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
func (c *Child) once(ctx context.Context, crashes int) error {
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Env = c.env
	cmd.Env = append(cmd.Environ(), c.opts.Env(crashes)...)
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
			c.pid = cmd.Process.Pid
			c.log.Debug("child started", "pid", c.pid)
			c.opts.Started(cmd.Process)
			err = cmd.Wait()
		}
		done <- err
	}()
	return <-done
}
