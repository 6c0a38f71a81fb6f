package monitoring

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Names of the series that exist for an alert's sake.
const (
	nameHeld        = "embed_worker_held"
	nameRedisMemory = "embed_redis_memory_used_ratio"
)

// memoryPatience bounds the wait for Redis at a scrape.
const memoryPatience = 2 * time.Second

// Held registers whether the worker holds its lanes back, because store, Redis or model fail and a task that
// failed on their account would be charged for nothing. held is called at each scrape.
func (w *Worker) Held(held func() bool) {
	w.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: nameHeld, Help: "1 while tasks are held back, since every one of them would fail.",
	}, func() float64 {
		if held() {
			return 1
		}
		return 0
	}))
}

// NewRedisMemory returns the gauge of the used part of Redis's maxmemory, of a cluster its fullest node's. read
// is called at each scrape; it gives 0 where there is no limit or where Redis does not answer.
func NewRedisMemory(read func(context.Context) float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: nameRedisMemory, Help: "Used part of Redis's maxmemory; 0 if it has none or can't be asked.",
	}, func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), memoryPatience)
		defer cancel()
		return read(ctx)
	})
}
