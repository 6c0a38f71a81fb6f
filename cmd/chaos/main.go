// Command chaos proves what the queue promises, on real processes: a redis-server with an append-only file and
// worker processes with the real model, while workers are killed every few seconds, Redis is killed and comes
// back, and some texts kill their worker, panic, or never come back. At the end it prints what became of every
// text; the status is 1 if a promise is broken.
//
// The workers must be built with the tag crashtest, which makes the bad texts bad.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
)

// errBroken is the end of a run in which a promise was broken; the table has said which.
var errBroken = errors.New("a promise is broken")

// A plan says how much of what happens.
type plan struct {
	worker, model, library, cache string

	texts      int
	workers    int
	leases     int           // of each worker at once; 0 is its default
	storm      time.Duration // how long anything is killed
	killEvery  time.Duration // a worker
	redisKills int           // spread over the storm
	fsync      string        // Redis's appendfsync
	traps      []trap
	bound      time.Duration // of recovery
	limit      time.Duration // of the whole run
	long       int           // long documents, of a run of their own
	share      float64       // of a core, that the worker gets in that run
	seed       uint64
	verbose    bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.LookupEnv, os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv boot.Getenv, out io.Writer) error {
	p, err := parse(args, getenv)
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if p.verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.limit, fmt.Errorf("the run did not end within %v", p.limit))
	defer cancel()
	r, err := p.run(ctx, log, out)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return err
	}
	if p.long > 0 {
		if err := p.throttled(ctx, log, out, r); err != nil {
			return err
		}
	}
	if err := r.print(out); err != nil {
		return err
	}
	if r.broken() {
		return errBroken
	}
	return nil
}

// parse returns the plan of a command line.
func parse(args []string, getenv boot.Getenv) (plan, error) {
	env := func(name string) string { v, _ := getenv(name); return v }
	cache, err := boot.Cache(getenv)
	if err != nil {
		return plan{}, err
	}
	var (
		p     plan
		traps string
	)
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.StringVar(&p.worker, "worker", "bin/worker-crashtest", "the worker's binary, built with -tags crashtest")
	flags.StringVar(&p.model, "model", env("MODEL"), "the model's folder")
	flags.StringVar(&p.library, "onnxruntime", env("ONNXRUNTIME_LIB"), "ONNX Runtime's shared library")
	flags.StringVar(&p.cache, "cache", cache, "folder for prepared graphs")
	flags.IntVar(&p.texts, "texts", 5000, "good texts")
	flags.IntVar(&p.workers, "workers", 3, "worker processes")
	flags.IntVar(&p.leases, "concurrency", 0, "texts that a worker leases at once; 0 is its default")
	flags.DurationVar(&p.storm, "storm", 90*time.Second, "how long anything is killed")
	flags.DurationVar(&p.killEvery, "kill-every", 6*time.Second, "time between two kill -9 of workers")
	flags.IntVar(&p.redisKills, "redis-kills", 2, "how often Redis is killed")
	flags.StringVar(&p.fsync, "appendfsync", "everysec", "Redis's appendfsync: everysec, always or no")
	flags.StringVar(&traps, "traps", trapNames(allTraps), "bad texts")
	flags.DurationVar(&p.bound, "bound", 10*time.Second, "longest time until a dead worker's texts run again")
	flags.IntVar(&p.long, "long", 24, "documents of 25 kB, done by one worker that gets a part of a core; 0 leaves that out")
	flags.Float64Var(&p.share, "share", 0.1, "that part")
	flags.DurationVar(&p.limit, "limit", 15*time.Minute, "longest run")
	flags.Uint64Var(&p.seed, "seed", uint64(time.Now().UnixNano()), "of who is killed")
	flags.BoolVar(&p.verbose, "v", false, "say what happens")
	if err := flags.Parse(args); err != nil {
		return plan{}, err
	}
	for name := range strings.SplitSeq(traps, ",") {
		if name == "" {
			continue
		}
		t, ok := trapOf(name)
		if !ok {
			return plan{}, fmt.Errorf("-traps: %q is none of %s", name, trapNames(allTraps))
		}
		p.traps = append(p.traps, t)
	}
	return p, nil
}
