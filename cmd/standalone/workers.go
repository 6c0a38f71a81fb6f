package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/supervise"
)

// startWorkers starts the worker processes in group. Their lines go to logs in the data folder, and to
// people too until quiet is called. A worker that can't work ends the group, with the reason it gave.
func (a *app) startWorkers(ctx context.Context, group *errgroup.Group, redisURL string) (quiet func(), err error) {
	var outputs []*output
	for i := range a.workers {
		name := fmt.Sprintf("worker-%d", i+1)
		file, err := a.logFile(name + ".log")
		if err != nil {
			return nil, err
		}
		out := &output{file: file, people: a.err, loud: true}
		outputs = append(outputs, out)
		child := a.workerChild(name, redisURL, out)
		group.Go(func() error {
			defer file.Close()
			if err := child.Run(ctx); err != nil {
				return out.explain(err)
			}
			return nil
		})
	}
	return func() {
		for _, out := range outputs {
			out.quiet()
		}
	}, nil
}

func (a *app) workerChild(name, redisURL string, out *output) *supervise.Child {
	argv := []string{
		a.worker, "--model", a.model, "--alias", a.alias, "--http", "127.0.0.1:0",
		"--log-level", a.log.Level, "--log-format", a.log.Format,
	}
	// The address may hold a password, which a command line would show to everybody on the machine.
	env := append(os.Environ(), "REDIS_URL="+redisURL, "EMBEDFLEET_REDIS_URL=")
	return supervise.New(a.logger, name, argv, env, &supervise.Options{
		Output: out,
		Final:  func(status int) bool { return status == boot.StatusUsage || status == boot.StatusModel },
	})
}

// awaitWorker returns when a worker is ready, and says what the workers do meanwhile.
func (a *app) awaitWorker(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.wait, fmt.Errorf("no worker was ready within %v; see %s", a.wait, filepath.Join(a.data, "logs")))
	defer cancel()
	begun, said := time.Now(), false
	for {
		workers, err := a.fleet.Workers.List(ctx)
		if err == nil {
			for _, w := range workers {
				switch {
				case w.Model != a.alias:
				case w.State == "ready":
					a.say("worker", "ready after %.1f s: model %s, space %s", time.Since(begun).Seconds(), a.alias, w.Space.Short())
					return nil
				case !said:
					a.say("worker", "loading %s; tasks queue meanwhile", a.model)
					said = true
				}
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// An output takes a worker's lines: all of them go to its log, to people while it is loud, and the last
// line of an ending worker is kept as the reason.
type output struct {
	file   io.Writer
	people io.Writer

	mu   sync.Mutex
	loud bool
	part []byte // of a line
	last string
}

func (o *output) quiet() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.loud = false
}

// Write never fails: a full disk under the log must not stop a worker.
func (o *output) Write(b []byte) (int, error) {
	_, _ = o.file.Write(b)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.part = append(o.part, b...)
	for {
		i := bytes.IndexByte(o.part, '\n')
		if i < 0 {
			return len(b), nil
		}
		line := string(o.part[:i])
		o.part = o.part[i+1:]
		if reason, ok := strings.CutPrefix(line, "worker: "); ok {
			o.last = reason
		} else if o.loud && forPeople(line) {
			fmt.Fprintln(o.people, "  "+line)
		}
	}
}

// forPeople tells the lines that somebody who waits for the first worker wants to see: warnings, and how a
// download goes.
func forPeople(line string) bool {
	for _, part := range []string{"WARN", "ERROR", "fetching the model"} {
		if strings.Contains(line, part) {
			return true
		}
	}
	return false
}

// explain puts the worker's own last word in place of its exit status.
func (o *output) explain(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last == "" {
		return err
	}
	if errors.Is(err, supervise.ErrGaveUp) {
		return fmt.Errorf("%w; its last word: %s", err, o.last)
	}
	return fmt.Errorf("worker: %s", o.last)
}
