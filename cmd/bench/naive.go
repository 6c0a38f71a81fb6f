package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/cmd/internal/engine"
	"github.com/embedfleet/embedfleet/embedder"
)

// runNaive is the worker that one writes first: asynq as its manual shows it, one text a task, one native
// call a task, as many at once as there are cores, the vector into a Redis hash. It gets our tokenizer and our graph
// of the runtime's own fused operators, which is more than an export has; it does not get our kernels.
func (b *bench) runNaive(ctx context.Context, redisAddr string, warm, texts []string) (measure, error) {
	set := b.settings(nil)
	set.StandardKernels = true
	set.Options = embedder.Options{TokenBudget: 1, MaxTexts: 1} // every text is a batch of its own
	e, err := engine.Open(ctx, slog.New(slog.DiscardHandler), set)
	if err != nil {
		return measure{}, err
	}
	opt := asynq.RedisClientOpt{Addr: redisAddr}
	rdb := redis.NewClient(&redis.Options{Addr: redisAddr})
	defer rdb.Close()
	var tokens atomic.Int64
	done := make(chan struct{}, len(warm)+len(texts))
	mux := asynq.NewServeMux()
	mux.HandleFunc("naive", func(ctx context.Context, t *asynq.Task) error {
		vector, err := e.EmbedText(ctx, string(t.Payload()))
		if err != nil {
			return err
		}
		if err := rdb.HSet(ctx, "naive:"+t.ResultWriter().TaskID(), "vector", vector.Vector.Bytes()).Err(); err != nil {
			return err
		}
		tokens.Add(int64(vector.Tokens))
		done <- struct{}{}
		return nil
	})
	server := asynq.NewServer(opt, asynq.Config{Concurrency: runtime.GOMAXPROCS(0), LogLevel: asynq.FatalLevel, TaskCheckInterval: 100 * time.Millisecond})
	if err := server.Start(mux); err != nil {
		return measure{}, fmt.Errorf("starting asynq: %w", err)
	}
	client := asynq.NewClient(opt)
	defer client.Close()
	through := func(texts []string) error {
		for _, text := range texts {
			if _, err := client.EnqueueContext(ctx, asynq.NewTask("naive", []byte(text))); err != nil {
				return fmt.Errorf("enqueuing: %w", err)
			}
		}
		late := time.After(10 * time.Minute)
		for range texts {
			select {
			case <-done:
			case <-late:
				return errors.New("the naive worker did not finish within 10 minutes")
			}
		}
		return nil
	}
	if err := through(warm); err != nil {
		return measure{}, err
	}
	tokens.Store(0)
	begun := time.Now()
	if err := through(texts); err != nil {
		return measure{}, err
	}
	m := measure{Seconds: time.Since(begun).Seconds(), Texts: len(texts), Tokens: int(tokens.Load()), Padded: int(tokens.Load())}
	server.Shutdown()
	return m, e.Close(ctx)
}
