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
	"strings"
	"syscall"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
)

// A bench holds what all contestants share.
type bench struct {
	model, library, cache string
	worker, python, peers string
	out                   string
	rounds, texts         int
	self                  string   // this binary
	dir                   string   // scratch
	limit                 []string // the matrix limit's graph and its operations
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
	case "engine", "fleet", "naive":
		var warm, texts []string
		if warm, err = readLines(args[0]); err != nil {
			return err
		}
		if texts, err = readLines(args[1]); err != nil {
			return err
		}
		switch name {
		case "engine":
			m, err = b.runEngine(ctx, warm, texts)
		case "fleet":
			m, err = b.withRedis(ctx, func(addr string) (measure, error) { return b.runFleet(ctx, addr, warm, texts) })
		default:
			m, err = b.runNaive(ctx, args[2], warm, texts)
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
	texts, err := makeTexts(b.texts + warmTexts)
	if err != nil {
		return err
	}
	texts, warm := texts[:b.texts], texts[b.texts:]
	if err := errors.Join(writeTexts(b.textsPath(), texts), writeTexts(b.warmPath(), warm)); err != nil {
		return err
	}
	list, err := b.heats(ctx)
	if err != nil {
		return err
	}
	results := map[string][]measure{}
	for round := range b.rounds {
		for _, h := range list {
			measures, err := h.run(ctx)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", strings.Join(h.names, " and "), round+1, err)
			}
			for i, m := range measures {
				fmt.Printf("round %d  %-12s %s\n", round+1, h.names[i], m)
				results[h.names[i]] = append(results[h.names[i]], m)
			}
		}
	}
	return b.report(results)
}

// warmTexts is how many texts a contestant embeds before it is measured.
const warmTexts = 64

func (b *bench) textsPath() string { return filepath.Join(b.dir, "texts.jsonl") }
func (b *bench) warmPath() string  { return filepath.Join(b.dir, "warm.jsonl") }

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

// A heat is one contestant, or several in the same seconds.
type heat struct {
	names []string
	run   func(context.Context) ([]measure, error)
}

// alone is a contestant that runs by itself.
func alone(name string, run func(context.Context) (measure, error)) heat {
	return heat{[]string{name}, func(ctx context.Context) ([]measure, error) {
		m, err := run(ctx)
		return []measure{m}, err
	}}
}

// heats returns those that can run here, in the order of a round.
func (b *bench) heats(ctx context.Context) ([]heat, error) {
	naive := alone("naive_asynq", func(ctx context.Context) (measure, error) {
		return b.withRedis(ctx, func(addr string) (measure, error) {
			return b.process(ctx, b.self, b.args("naive", b.warmPath(), b.textsPath(), addr)...)
		})
	})
	if b.python == "" {
		fmt.Println("no Python for the peers (BENCH_PYTHON): plain ONNX Runtime and the matrix limit are left out")
		return []heat{b.race("engine", "fleet"), naive}, nil
	}
	if filepath.Base(b.model) != limitModel {
		fmt.Printf("the matrix limit and the plain runtime are those of %s; with another model they are left out\n", limitModel)
		return []heat{b.race("engine", "fleet"), naive}, nil
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
	b.limit = []string{graph, strconv.FormatFloat(limit.Flop, 'f', -1, 64)}
	return []heat{b.race("engine", "fleet", "fp32_limit"), naive, alone("plain_ort", func(ctx context.Context) (measure, error) {
		return b.process(ctx, b.python, filepath.Join(b.peers, "plain.py"), b.model, b.textsPath())
	})}, nil
}

// races is how many races make a heat: what disturbs one of them weighs half.
const races = 2

// race is a heat of contestants that are compared to a few per cent.
func (b *bench) race(names ...string) heat {
	return heat{names, func(ctx context.Context) ([]measure, error) {
		sums := make([]measure, len(names))
		for range races {
			cmds := make([]*exec.Cmd, len(names))
			for i, name := range names {
				args := b.args(name, b.warmPath(), b.textsPath())
				if name == "fp32_limit" {
					args = b.args("limit", b.limit...)
				}
				cmds[i] = exec.CommandContext(ctx, b.self, args...)
			}
			measures, err := race(ctx, cmds...)
			if err != nil {
				return nil, err
			}
			for i, m := range measures {
				sums[i] = sums[i].plus(m)
			}
		}
		return sums, nil
	}}
}

func (b *bench) args(child string, args ...string) []string {
	return append([]string{"-child", child, "-model", b.model, "-onnxruntime", b.library, "-cache", b.cache, "-worker", b.worker, "--"}, args...)
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
