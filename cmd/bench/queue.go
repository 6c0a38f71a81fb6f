package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/tasks"
)

const (
	// queueConcurrency is how many tasks both sides have in hand at once; asynq alone is fastest there.
	queueConcurrency = 64
	// payloadBytes is a headline's payload.
	payloadBytes = 200
	// queueLimit is when a contestant is given up.
	queueLimit = 5 * time.Minute
)

// laneName is the asynq queue of the lane that both sides serve.
const laneName = "embed:" + alias + ":" + string(tasks.Live)

// queueContestants move tasks whose handler does nothing through a Redis of their own: what the queue itself
// costs. Each gets the address of its Redis and how many tasks.
var queueContestants = map[string]func(ctx context.Context, addr string, n int) (measure, error){
	"noop_ours":     serveOurs,
	"noop_asynq":    serveAsynq,
	"enqueue_ours":  enqueueOurs,
	"enqueue_asynq": enqueueAsynq,
}

// queuePromises are the ratios that the design asks of the queue.
var queuePromises = []promise{
	{"queue_noop_vs_asynq", "noop_ours", "noop_asynq", 2},
	{"queue_enqueue_vs_asynq", "enqueue_ours", "enqueue_asynq", 8},
}

// queueChild measures one of them in this process.
func queueChild(ctx context.Context, name string, args []string) (measure, error) {
	f := queueContestants[name]
	if f == nil || len(args) != 2 {
		return measure{}, fmt.Errorf("no contestant is called %q", name)
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return measure{}, fmt.Errorf("how many tasks: %w", err)
	}
	return f(ctx, args[0], n)
}

// queue runs all of them in turn, each round in another order, and compares.
func (b *bench) queue(ctx context.Context, n int) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "embedfleet-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	names := slices.Sorted(maps.Keys(queueContestants))
	results := map[string][]measure{}
	for round := range b.rounds {
		for _, name := range names {
			m, err := b.withRedis(ctx, func(addr string) (measure, error) {
				return b.process(ctx, b.self, "-child", name, "--", addr, strconv.Itoa(n))
			})
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", name, round+1, err)
			}
			fmt.Printf("round %d  %-14s %7.0f tasks/s\n", round+1, name, m.textsPerSecond())
			results[name] = append(results[name], m)
		}
		slices.Reverse(names) // so that nobody is always first
	}
	return b.queueReport(results, n)
}

// queueReport prints the medians and their ratios, round by round, and adds them to the figures.
func (b *bench) queueReport(results map[string][]measure, n int) error {
	figures := map[string]figure{}
	for name, list := range results {
		figures["queue_"+name] = figure{Median: median(list, measure.textsPerSecond), Unit: "tasks/s"}
	}
	var rows [][]string
	for _, p := range queuePromises {
		of, to := results[p.of], results[p.to]
		ratios := make([]measure, len(of))
		for i := range of {
			ratios[i].Seconds = of[i].textsPerSecond() / to[i].textsPerSecond()
		}
		ratio := median(ratios, func(m measure) float64 { return m.Seconds })
		f := figures["queue_"+p.of]
		figures[p.name] = figure{Median: f.Median, Unit: f.Unit, RatioTo: p.to, Ratio: ratio}
		verdict := "reached"
		if ratio < p.atLeast {
			verdict = "MISSED"
		}
		rows = append(rows, []string{p.of, fmt.Sprintf("%.0f", f.Median), p.to, fmt.Sprintf("%.0f", figures["queue_"+p.to].Median),
			fmt.Sprintf("%.2f", ratio), fmt.Sprintf("%.2f", p.atLeast), verdict})
	}
	fmt.Printf("\n%d tasks of %d bytes, %d in hand, %d cores, medians of %d rounds, tasks a second\n",
		n, payloadBytes, queueConcurrency, runtime.NumCPU(), b.rounds)
	if err := term.Table(os.Stdout, []string{"FIGURE", "RATE", "AGAINST", "RATE", "RATIO", "AT LEAST", ""}, make([]int, 7), rows); err != nil {
		return err
	}
	return addFigures(b.out, figures)
}

// addFigures puts figures into the file and leaves the others in it alone.
func addFigures(path string, figures map[string]figure) error {
	all := map[string]figure{}
	old, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(old, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the figures of %s: %w", path, err)
	}
	maps.Copy(all, figures)
	return write(path, all)
}

// noops are n tasks as a producer makes them.
func noops(n int) []tasks.Task {
	payload := make([]byte, payloadBytes)
	for i := range payload {
		payload[i] = 'x'
	}
	list := make([]tasks.Task, n)
	for i := range list {
		list[i] = tasks.Task{ID: fmt.Sprintf("%032x", i), Kind: tasks.EmbedDocument, Model: alias, Lane: tasks.Live,
			Payload: payload, Timeout: time.Minute}
	}
	return list
}

// enqueueOurs hands all tasks to our client in one call. There are some times as many as for asynq, so that both
// take about as long: what is over in a moment measures the moment.
func enqueueOurs(ctx context.Context, addr string, n int) (measure, error) {
	n *= 4
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	defer rdb.Close()
	if err := awaitRedis(ctx, rdb); err != nil {
		return measure{}, err
	}
	list := noops(n)
	begun := time.Now()
	if _, err := queue.NewClient(rdb, nil).Enqueue(ctx, list); err != nil {
		return measure{}, err
	}
	return measure{Seconds: time.Since(begun).Seconds(), Texts: n}, nil
}

// enqueueAsynq is the loop that asynq's manual shows.
func enqueueAsynq(ctx context.Context, addr string, n int) (measure, error) {
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	defer rdb.Close()
	if err := awaitRedis(ctx, rdb); err != nil {
		return measure{}, err
	}
	client, list := asynq.NewClientFromRedisClient(rdb), noops(n)
	begun := time.Now()
	for _, t := range list {
		_, err := client.EnqueueContext(ctx, asynq.NewTask(string(t.Kind), t.Payload), asynq.TaskID(t.ID), asynq.Queue(laneName), asynq.Timeout(t.Timeout))
		if err != nil {
			return measure{}, err
		}
	}
	return measure{Seconds: time.Since(begun).Seconds(), Texts: n}, nil
}

// noop is a handler of ours that does nothing.
type noop struct{}

func (noop) HandleBatch(_ context.Context, items []tasks.Item, report func([]tasks.Result)) {
	results := make([]tasks.Result, len(items))
	for i := range results {
		results[i].Index = i
	}
	report(results)
}

// serveOurs has our consumer do all tasks.
func serveOurs(ctx context.Context, addr string, n int) (measure, error) {
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	defer rdb.Close()
	c, err := consumer.New(rdb, alias, []tasks.Lane{tasks.Live}, noop{}, &consumer.Options{Concurrency: queueConcurrency})
	if err != nil {
		return measure{}, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	start := func() error {
		go func() { ended <- c.Run(ctx) }()
		return nil
	}
	return timeServer(ctx, addr, n, start, func() error { stop(); return <-ended })
}

// serveAsynq has asynq's own server do them, as often at its queue as ours.
func serveAsynq(ctx context.Context, addr string, n int) (measure, error) {
	server := asynq.NewServer(asynq.RedisClientOpt{Addr: addr}, asynq.Config{
		Concurrency: queueConcurrency, Queues: map[string]int{laneName: 1},
		TaskCheckInterval: 100 * time.Millisecond, LogLevel: asynq.FatalLevel,
	})
	start := func() error {
		return server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error { return nil }))
	}
	return timeServer(ctx, addr, n, start, func() error { server.Shutdown(); return nil })
}

// timeServer fills the lane, starts a server, and stops the clock when the last task is acknowledged.
func timeServer(ctx context.Context, addr string, n int, start, stop func() error) (measure, error) {
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	defer rdb.Close()
	if err := awaitRedis(ctx, rdb); err != nil {
		return measure{}, err
	}
	if _, err := queue.NewClient(rdb, nil).Enqueue(ctx, noops(n)); err != nil {
		return measure{}, err
	}
	lanes := queue.NewLanes(rdb)
	begun := time.Now()
	if err := start(); err != nil {
		return measure{}, err
	}
	for {
		list, err := lanes.Status(ctx, alias)
		if err != nil {
			return measure{}, err
		}
		var open int64
		for _, l := range list {
			open += l.Pending + l.Active + l.Retry + l.Dead
		}
		if open == 0 {
			return measure{Seconds: time.Since(begun).Seconds(), Texts: n}, stop()
		}
		if time.Since(begun) > queueLimit {
			return measure{}, fmt.Errorf("%d of %d tasks are open after %v", open, n, queueLimit)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// awaitRedis returns when a Redis that is just starting answers.
func awaitRedis(ctx context.Context, rdb *redis.Client) error {
	var err error
	for range 200 {
		if err = rdb.Ping(ctx).Err(); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("waiting for Redis: %w", err)
}
