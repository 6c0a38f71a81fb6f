// Command bench measures the figures that the project promises, as ratios within one run: contestants take
// turns, each in a process of its own, and the medians of all rounds are compared. It prints a table and
// writes bench/latest.json.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
)

// A bench holds what all contestants share.
type bench struct {
	model, library, cache string
	worker, python, peers string
	out                   string
	rounds, texts         int
	self                  string // this binary
	dir                   string // scratch
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.LookupEnv)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv boot.Getenv) error {
	env := func(name string) string { v, _ := getenv(name); return v }
	cache, err := boot.Cache(getenv)
	if err != nil {
		return err
	}
	var b bench
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&b.model, "model", env("MODEL"), "the model's folder")
	flags.StringVar(&b.library, "onnxruntime", env("ONNXRUNTIME_LIB"), "ONNX Runtime's shared library")
	flags.StringVar(&b.cache, "cache", cache, "folder for prepared graphs")
	flags.StringVar(&b.worker, "worker", "bin/worker", "the worker's binary")
	flags.StringVar(&b.python, "python", env("BENCH_PYTHON"), "a Python with cmd/bench/peer/requirements.txt; empty leaves the peers out")
	flags.StringVar(&b.peers, "peers", "cmd/bench/peer", "folder of the peers' scripts")
	flags.StringVar(&b.out, "out", "bench/latest.json", "where the figures go")
	flags.IntVar(&b.rounds, "rounds", 3, "rounds, of which medians are taken")
	flags.IntVar(&b.texts, "texts", 3000, "texts to embed")
	queued := flags.Int("queue", 0, "measure only the queue, with so many tasks that do nothing")
	workers := flags.Int("memory", 0, "measure only boots and memory, with so many workers side by side (at least 2)")
	waited := flags.Int("queries", 0, "measure only how long so many queries wait, without and beside a backfill")
	child := flags.String("child", "", "measure one contestant in this process (used by bench itself)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *child != "" {
		return b.child(ctx, *child, flags.Args())
	}
	if *workers > 1 {
		return b.memory(ctx, *workers)
	}
	if *queued > 0 {
		return b.queue(ctx, *queued)
	}
	if *waited > 0 {
		return b.queries(ctx, *waited)
	}
	return b.all(ctx)
}

// child measures one contestant and prints its measure.
func (b *bench) child(ctx context.Context, name string, args []string) error {
	var (
		m   measure
		err error
	)
	switch name {
	case "engine", "naive":
		var texts []string
		if texts, err = readLines(args[0]); err != nil {
			return err
		}
		if name == "engine" {
			m, err = b.runEngine(ctx, texts)
		} else {
			m, err = b.runNaive(ctx, args[1], texts)
		}
	case "limit":
		var flop float64
		if flop, err = strconv.ParseFloat(args[1], 64); err != nil {
			return err
		}
		m, err = b.runLimit(ctx, args[0], flop)
	default:
		m, err = queueChild(ctx, name, args)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}

// all prepares the scratch folder and runs every contestant in every round.
func (b *bench) all(ctx context.Context) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "embedfleet-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	texts, err := makeTexts(b.texts)
	if err != nil {
		return err
	}
	if err := writeTexts(b.textsPath(), texts); err != nil {
		return err
	}
	list, err := b.contestants(ctx, texts)
	if err != nil {
		return err
	}
	results := map[string][]measure{}
	for round := range b.rounds {
		for _, c := range list {
			m, err := c.run(ctx)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", c.name, round+1, err)
			}
			fmt.Printf("round %d  %-12s %s\n", round+1, c.name, m)
			results[c.name] = append(results[c.name], m)
		}
	}
	return b.report(results)
}

func (b *bench) textsPath() string { return filepath.Join(b.dir, "texts.jsonl") }

func writeTexts(path string, texts []string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("writing the texts: %w", err)
	}
	enc := json.NewEncoder(f)
	for _, t := range texts {
		if err := enc.Encode(map[string]string{"text": t}); err != nil {
			return errors.Join(fmt.Errorf("writing the texts: %w", err), f.Close())
		}
	}
	return f.Close()
}

// A contestant is one way to do the work.
type contestant struct {
	name string
	run  func(context.Context) (measure, error)
}

// contestants returns those that can run here, in the order of a round.
func (b *bench) contestants(ctx context.Context, texts []string) ([]contestant, error) {
	list := []contestant{
		{"engine", func(ctx context.Context) (measure, error) {
			return b.process(ctx, b.self, b.args("engine", b.textsPath())...)
		}},
		{"fleet", func(ctx context.Context) (measure, error) {
			return b.withRedis(ctx, func(addr string) (measure, error) { return b.runFleet(ctx, addr, texts) })
		}},
		{"naive_asynq", func(ctx context.Context) (measure, error) {
			return b.withRedis(ctx, func(addr string) (measure, error) {
				return b.process(ctx, b.self, b.args("naive", b.textsPath(), addr)...)
			})
		}},
	}
	if b.python == "" {
		fmt.Println("no Python for the peers (BENCH_PYTHON): plain ONNX Runtime and the matrix limit are left out")
		return list, nil
	}
	if filepath.Base(b.model) != limitModel {
		fmt.Printf("the matrix limit and the plain runtime are those of %s; with another model they are left out\n", limitModel)
		return list, nil
	}
	graph := filepath.Join(b.dir, "limit.onnx")
	out, err := exec.CommandContext(ctx, b.python, filepath.Join(b.peers, "limit.py"), graph).Output()
	if err != nil {
		return nil, fmt.Errorf("making the matrix limit's graph: %w", err)
	}
	var limit measure
	if err := json.Unmarshal(out, &limit); err != nil {
		return nil, fmt.Errorf("making the matrix limit's graph: %w", err)
	}
	return append(list,
		contestant{"plain_ort", func(ctx context.Context) (measure, error) {
			return b.process(ctx, b.python, filepath.Join(b.peers, "plain.py"), b.model, b.textsPath())
		}},
		contestant{"fp32_limit", func(ctx context.Context) (measure, error) {
			return b.process(ctx, b.self, b.args("limit", graph, strconv.FormatFloat(limit.Flop, 'f', -1, 64))...)
		}},
	), nil
}

func (b *bench) args(child string, args ...string) []string {
	return append([]string{"-child", child, "-model", b.model, "-onnxruntime", b.library, "-cache", b.cache, "--"}, args...)
}

// process runs a contestant in a process of its own and reads the measure it prints.
func (b *bench) process(ctx context.Context, name string, args ...string) (measure, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return measure{}, err
	}
	var m measure
	if err := json.Unmarshal(out, &m); err != nil {
		return m, fmt.Errorf("reading its measure %q: %w", out, err)
	}
	m.PeakKB = peakKB(cmd.ProcessState)
	return m, nil
}

// withRedis gives f a fresh Redis.
func (b *bench) withRedis(ctx context.Context, f func(addr string) (measure, error)) (measure, error) {
	dir, err := os.MkdirTemp(b.dir, "redis-")
	if err != nil {
		return measure{}, err
	}
	addr, stop, err := startRedis(ctx, dir)
	if err != nil {
		return measure{}, err
	}
	defer stop()
	return f(addr)
}
