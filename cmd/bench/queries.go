package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/intake"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
)

// busyRatio bounds the p99 of queries beside a backfill, as a multiple of the p99 without.
const busyRatio = 3.0

// queries measures how long a search text waits for its vector: from the call to the answer, through Redis and
// a worker. Half of each round runs while nothing else is done, half while a backfill keeps all runners busy.
func (b *bench) queries(ctx context.Context, n int) (err error) {
	if b.dir, err = os.MkdirTemp("", "embedfleet-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	addr, stop, err := startRedis(ctx, b.dir)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := queue.Parse("redis://" + addr)
	if err != nil {
		return err
	}
	worker := exec.CommandContext(ctx, b.worker, "--model", b.model, "--alias", alias, "--redis-url", "redis://"+addr,
		"--onnxruntime", b.library, "--cache", b.cache, "--http", "127.0.0.1:0", "--log-level", "error")
	worker.Stderr = os.Stderr
	if err := worker.Start(); err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	err = b.askThrough(ctx, conn, n)
	_ = worker.Process.Signal(syscall.SIGTERM)
	if waitErr := worker.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("stopping the worker: %w", waitErr)
	}
	return err
}

func (b *bench) askThrough(ctx context.Context, conn queue.Conn, n int) error {
	f, err := openFleet(ctx, conn)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := awaitReady(ctx, f); err != nil {
		return err
	}
	texts, err := makeTexts(n)
	if err != nil {
		return err
	}
	var idle, busy, ratios []time.Duration
	for round := range b.rounds {
		calm, err := ask(ctx, f, texts)
		if err != nil {
			return err
		}
		end, err := backfill(ctx, f, round)
		if err != nil {
			return err
		}
		loaded, err := ask(ctx, f, texts)
		if err = errors.Join(err, end()); err != nil {
			return err
		}
		fmt.Printf("round %d  p50 %v, p99 %v without other work; p50 %v, p99 %v beside a backfill\n",
			round+1, percentile(calm, 50), percentile(calm, 99), percentile(loaded, 50), percentile(loaded, 99))
		idle, busy = append(idle, percentile(calm, 99)), append(busy, percentile(loaded, 99))
		ratios = append(ratios, time.Duration(float64(percentile(loaded, 99))/float64(percentile(calm, 99))*1e6))
	}
	ratio := float64(percentile(ratios, 50)) / 1e6
	verdict := "reached"
	if ratio > busyRatio {
		verdict = "MISSED"
	}
	fmt.Println()
	rows := [][]string{{"query p99 beside a backfill", "query p99 without", fmt.Sprintf("%.2f", ratio), fmt.Sprintf("%.2f", busyRatio), verdict}}
	if err := term.Table(os.Stdout, []string{"FIGURE", "AGAINST", "RATIO", "AT MOST", ""}, make([]int, 5), rows); err != nil {
		return err
	}
	return addFigures(b.out, map[string]figure{
		"query_p99_idle": {Median: percentile(idle, 50).Seconds() * 1e3, Unit: "ms"},
		"query_p99_busy": {Median: percentile(busy, 50).Seconds() * 1e3, Unit: "ms", RatioTo: "query_p99_idle", Ratio: ratio},
	})
}

// ask asks for the vector of one text after another, as people do, and returns how long each took.
func ask(ctx context.Context, f *fleet.Fleet, texts []string) ([]time.Duration, error) {
	service := f.Search(slog.New(slog.DiscardHandler), alias, &search.Options{Timeout: time.Minute})
	var took []time.Duration
	for _, text := range texts {
		result, err := service.Search(ctx, text, 1, store.Filter{})
		if err != nil {
			return nil, err
		}
		took = append(took, result.Embedding)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(15 * time.Millisecond):
		}
	}
	return took, nil
}

// backfill enqueues work for minutes, waits until all runners are in it, and returns what takes it away.
func backfill(ctx context.Context, f *fleet.Fleet, round int) (end func() error, err error) {
	texts, err := makeTexts(6_000)
	if err != nil {
		return nil, err
	}
	list := make([]tasks.Task, len(texts))
	ids := make([]string, len(texts))
	for i, text := range texts {
		if list[i], err = tasks.New(alias, tasks.Backfill, intake.ForText(fmt.Sprintf("%d %s", round, text)), nil); err != nil {
			return nil, err
		}
		ids[i] = list[i].ID
	}
	if _, err := f.Queue.Enqueue(ctx, list); err != nil {
		return nil, err
	}
	time.Sleep(2 * time.Second) // the first generation of batches is under way
	return func() error {
		if _, err := f.Lanes.Cancel(ctx, alias, tasks.Backfill, ids); err != nil {
			return fmt.Errorf("ending the backfill: %w", err)
		}
		for range 600 {
			lanes, err := f.Lanes.Status(ctx, alias)
			if err != nil {
				return err
			}
			var left int64
			for _, lane := range lanes {
				left += lane.Pending + lane.Active
			}
			if left == 0 {
				return nil
			}
			time.Sleep(100 * time.Millisecond)
		}
		return errors.New("the backfill did not end within a minute")
	}, nil
}

// percentile returns the p-th of the durations, the upper one where it falls between two.
func percentile(list []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}
