package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/supervise"
	"github.com/embedfleet/embedfleet/registry"
)

// noteWait is how long telling the fleet of a crash may take: the restart waits for it.
const noteWait = 2 * time.Second

// errNoWorkers is why nothing can be waited for: the last worker was given up or ended in order.
var errNoWorkers = errors.New("no worker is left")

// A crew is the worker processes.
type crew struct {
	left   atomic.Int32
	served atomic.Bool             // one of them was ready
	lost   context.CancelCauseFunc // called when none is left
}

// leave counts a worker out that is not started again.
func (c *crew) leave(why error) {
	if c.left.Add(-1) == 0 {
		c.lost(why)
	}
}

// startWorkers starts the worker processes in group. Their lines go to logs in the data folder, and to
// people too until quiet is called. A worker that can't work ends the group, with the reason it gave, unless
// another was ready before.
func (a *app) startWorkers(ctx context.Context, group *errgroup.Group, redisURL string, lost context.CancelCauseFunc) (quiet func(), err error) {
	a.crew.left.Store(int32(a.workers))
	a.crew.lost = lost
	var outputs []*output
	for i := range a.workers {
		name := fmt.Sprintf("worker-%d", i+1)
		file, err := a.logFile(name + ".log")
		if err != nil {
			return nil, err
		}
		k := &keeper{app: a, name: name, out: &output{file: file, people: a.err, loud: true}}
		outputs = append(outputs, k.out)
		group.Go(func() error {
			defer file.Close()
			return k.run(ctx, redisURL)
		})
	}
	return func() {
		for _, out := range outputs {
			out.quiet()
		}
	}, nil
}

// A keeper keeps one worker running, and tells the fleet what befalls it.
type keeper struct {
	*app
	name    string
	out     *output
	crashes int // so far
}

// run keeps the worker until ctx ends. One that is given up stays in the registry as failed, with the
// reason, for as long: its tasks stay queued, the other workers go on, and people must see it.
func (k *keeper) run(ctx context.Context, redisURL string) error {
	err := k.child(redisURL).Run(ctx)
	if err == nil {
		if ctx.Err() == nil {
			k.say("worker", "%s ended in order and is not started again", k.name)
			k.crew.leave(fmt.Errorf("%w: %s ended in order", errNoWorkers, k.name))
		}
		return nil
	}
	final := !errors.Is(err, supervise.ErrGaveUp)
	err = k.out.explain(err)
	if final && !k.crew.served.Load() {
		return err
	}
	k.say("worker", "%v; it is not started again, tasks stay queued", err)
	k.note(ctx, registry.EventFailed, err.Error())
	k.crew.leave(fmt.Errorf("%w: %w", errNoWorkers, err))
	host, _ := os.Hostname() // a name for people; none is fine
	entry := registry.Worker{
		ID: uuid.NewString(), Name: k.name, Model: k.alias, State: registry.StateFailed, Since: time.Now(), Reason: err.Error(),
		Host: host, PID: os.Getpid(), Started: time.Now(), Crashes: k.crashes,
	}
	return k.fleet.Workers.Announce(ctx, k.logger, func() registry.Worker { return entry }, nil)
}

func (k *keeper) child(redisURL string) *supervise.Child {
	argv := []string{
		k.worker, "--model", k.model, "--alias", k.alias, "--http", "127.0.0.1:0", "--name", k.name,
		"--log-level", k.log.Level, "--log-format", k.log.Format,
	}
	// The address may hold a password, which a command line would show to everybody on the machine.
	env := append(os.Environ(), "REDIS_URL="+redisURL, "EMBEDFLEET_REDIS_URL=")
	env = append(env, k.environ...)
	return supervise.New(k.logger, k.name, argv, env, &supervise.Options{
		Output: k.out, MinDelay: k.pause,
		// A worker that ends with 0 was told to.
		Final:   func(status int) bool { return status == 0 || status == boot.StatusUsage || status == boot.StatusModel },
		Env:     func(crashes int) []string { return []string{"EMBEDFLEET_CRASHES=" + strconv.Itoa(crashes)} },
		Crashed: k.crashed,
	})
}

// crashed tells people and the fleet of a crash.
func (k *keeper) crashed(c supervise.Crash) {
	k.crashes = c.Count
	if word := k.out.take(); word != "" {
		c.How += " (" + word + ")"
	}
	text := fmt.Sprintf("%s, crash %d of %d in %v", c.How, c.Recent, supervise.Crashes, supervise.Window)
	if c.Again > 0 {
		text += fmt.Sprintf(", again in %v", c.Again)
	}
	k.say("worker", "%s crashed: %s", k.name, text)
	k.note(context.Background(), registry.EventCrashed, text)
	ctx, cancel := context.WithTimeout(context.Background(), noteWait)
	defer cancel()
	host, _ := os.Hostname() // as the worker itself asked
	if err := k.fleet.Workers.Died(ctx, host, c.PID, "standalone"); err != nil {
		k.logger.Warn("the dead worker stays in the registry until it lapses", "err", err)
	}
}

// note tells the fleet of an event; a Redis that is away is logged, and the event lost.
func (k *keeper) note(ctx context.Context, what, text string) {
	ctx, cancel := context.WithTimeout(ctx, noteWait)
	defer cancel()
	err := k.fleet.Events.Append(ctx, registry.Event{What: what, Who: "standalone", Model: k.alias, About: k.name, Text: text})
	if err != nil {
		k.logger.Warn("noting an event failed", "what", what, "err", err)
	}
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
				case w.Serving():
					a.crew.served.Store(true)
					a.say("worker", "ready after %.1f s: model %s, space %s", time.Since(begun).Seconds(), a.alias, w.Space.Short())
					return nil
				case !said && w.State == registry.StateLoading:
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
	last string // word of the worker that runs or has just ended
	told string // the same of an earlier one
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
		if reason, ok := lastWord(line); ok {
			o.last = reason
		} else if o.loud && forPeople(line) {
			fmt.Fprintln(o.people, "  "+line)
		}
	}
}

// lastWord returns what a line says of the worker's end: its own error, or the headline of a Go program's.
func lastWord(line string) (string, bool) {
	if reason, ok := strings.CutPrefix(line, "worker: "); ok {
		return reason, true
	}
	for _, headline := range []string{"SIGSEGV: ", "SIGBUS: ", "SIGABRT: ", "SIGFPE: ", "SIGILL: ", "fatal error: ", "panic: "} {
		if strings.HasPrefix(line, headline) {
			return line, true
		}
	}
	return "", false
}

// take returns the last word of the worker that has just ended.
func (o *output) take() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told, o.last = o.last, ""
	return o.told
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
	word := cmp.Or(o.last, o.told)
	if word == "" {
		return err
	}
	if errors.Is(err, supervise.ErrGaveUp) {
		return fmt.Errorf("%w; its last word: %s", err, word)
	}
	return fmt.Errorf("worker: %s", word)
}
