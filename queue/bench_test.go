package queue

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

// BenchmarkServe is the rate of tasks that do nothing, through our server and through asynq alone with the
// same concurrency. Run it with -benchtime of some 20000x.
func BenchmarkServe(b *testing.B) {
	const concurrency = 64
	var left atomic.Int64
	done := make(chan struct{}, 1)
	count := func() {
		if left.Add(-1) == 0 {
			done <- struct{}{}
		}
	}
	b.Run("ours", func(b *testing.B) {
		rdb := testkit.Redis(b)
		if _, err := NewClient(rdb, nil).Enqueue(b.Context(), manyTasks(tasks.Live, b.N)); err != nil {
			b.Fatal(err)
		}
		left.Store(int64(b.N))
		h := newRecorder(func(context.Context, tasks.Task) error { count(); return nil })
		s, err := NewServer(connOf(rdb), "m", []tasks.Lane{tasks.Live}, h, &ServerOptions{Concurrency: concurrency})
		if err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		if err := s.Start(); err != nil {
			b.Fatal(err)
		}
		<-done
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
		b.StopTimer()
		s.Stop()
		_ = s.Shutdown(context.Background())
	})
	b.Run("asynq", func(b *testing.B) {
		rdb := testkit.Redis(b)
		if _, err := NewClient(rdb, nil).Enqueue(b.Context(), manyTasks(tasks.Live, b.N)); err != nil {
			b.Fatal(err)
		}
		left.Store(int64(b.N))
		s := asynq.NewServerFromRedisClient(rdb, asynq.Config{
			Concurrency:       concurrency,
			Queues:            map[string]int{queueName("m", tasks.Live): 1},
			TaskCheckInterval: 100 * time.Millisecond,
			LogLevel:          asynq.FatalLevel,
		})
		b.ResetTimer()
		err := s.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error { count(); return nil }))
		if err != nil {
			b.Fatal(err)
		}
		<-done
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
		b.StopTimer()
		s.Shutdown()
	})
}
