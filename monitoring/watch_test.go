package monitoring_test

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/embedfleet/embedfleet/monitoring"
)

func TestWatchedSeries(t *testing.T) {
	t.Parallel()
	held := false
	w := monitoring.NewWorker("v1")
	w.Held(func() bool { return held })
	c := monitoring.NewCrawler("v1")
	c.Registry().MustRegister(monitoring.NewRedisMemory(func(ctx context.Context) float64 {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("a scrape may wait for Redis for ever")
		}
		return 0.25
	}))
	for _, is := range []string{"0", "1"} {
		held = is == "1"
		want := "# HELP embed_worker_held 1 while tasks are held back, since every one of them would fail.\n# TYPE embed_worker_held gauge\nembed_worker_held " + is + "\n"
		if err := testutil.GatherAndCompare(w.Registry(), strings.NewReader(want), "embed_worker_held"); err != nil {
			t.Error(err)
		}
	}
	want := "# HELP embed_redis_memory_used_ratio Used part of Redis's maxmemory; 0 if it has none or can't be asked.\n# TYPE embed_redis_memory_used_ratio gauge\nembed_redis_memory_used_ratio 0.25\n"
	if err := testutil.GatherAndCompare(c.Registry(), strings.NewReader(want), "embed_redis_memory_used_ratio"); err != nil {
		t.Error(err)
	}
}
