package upkeep

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/queue/internal/queuetest"
	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

// idle runs what a worker process runs beside its model, until ctx ends.
func idle(ctx context.Context, t testing.TB, rdb redis.UniversalClient, id, alias string) {
	log := slog.New(slog.DiscardHandler)
	c, err := consumer.New(rdb, alias, tasks.Lanes, queuetest.NewRecorder(nil), &consumer.Options{Worker: id})
	if err != nil {
		t.Error(err)
		return
	}
	self := registry.Worker{ID: id, Model: alias, State: registry.StateReady, Host: "h", Lanes: tasks.Lanes}
	workers := registry.NewWorkers(rdb)
	var parts sync.WaitGroup
	for _, part := range []func() error{
		func() error { return workers.Announce(ctx, log, func() registry.Worker { return self }, nil) },
		func() error { return workers.Watch(ctx, log, id) },
		func() error { return registry.NewControl(rdb).Follow(ctx, log, self, func(registry.Order) {}) },
		func() error { return New(rdb, &Options{Models: []string{alias}}).Run(ctx) },
		func() error { return c.Run(ctx) },
	} {
		parts.Go(func() {
			if err := part(); err != nil {
				t.Error(err)
			}
		})
	}
	parts.Wait()
}

// chatter returns how many commands a second Redis does for a fleet that has nothing to do, those inside of scripts
// counted, once all are up and heard.
func chatter(t testing.TB, workers, aliases int, d time.Duration) float64 {
	t.Helper()
	rdb := testkit.Redis(t)
	for i := range aliases {
		for _, lane := range tasks.Lanes {
			rdb.SAdd(t.Context(), wire.RegistryKey, wire.QueueName(fmt.Sprintf("m%d", i), lane))
		}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var fleet sync.WaitGroup
	for i := range workers {
		client := redis.NewClient(&redis.Options{Network: rdb.Options().Network, Addr: rdb.Options().Addr, PoolSize: 4,
			MaintNotificationsConfig: rdb.Options().MaintNotificationsConfig, DisableIdentity: true})
		fleet.Go(func() {
			defer client.Close()
			time.Sleep(time.Duration(i) * 2 * time.Second / time.Duration(workers)) // not in step
			idle(ctx, t, client, fmt.Sprintf("w%d", i), fmt.Sprintf("m%d", i%aliases))
		})
	}
	defer fleet.Wait()
	defer cancel()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if list, err := registry.NewWorkers(rdb).List(ctx); err == nil && len(list) == workers {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the fleet is not up after a minute")
		}
	}
	time.Sleep(2 * time.Second)
	before, begun := commands(t, rdb), time.Now()
	time.Sleep(d)
	return (commands(t, rdb) - before) / time.Since(begun).Seconds()
}

// commands returns how many commands Redis has done.
func commands(t testing.TB, rdb *redis.Client) (n float64) {
	t.Helper()
	info, err := rdb.InfoMap(context.WithoutCancel(t.Context()), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(info["Stats"]["total_commands_processed"], &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// An idle worker costs Redis so many commands a second, in a fleet of any size, and a sweep one for each lane.
func TestTurnsKeepChatterDown(t *testing.T) {
	t.Parallel()
	const workers, aliases = 24, 6
	rate := chatter(t, workers, aliases, 5*time.Second)
	own := (rate - float64(aliases*len(tasks.Lanes))) / workers
	t.Logf("%d idle workers of %d aliases: %.0f commands a second, %.1f a worker", workers, aliases, rate, own)
	if own > 20 {
		t.Errorf("an idle worker costs Redis %.1f commands a second, want 20 at most", own)
	}
}

// BenchmarkChatter prints what idle fleets cost Redis; at most 5,000 commands a second each.
func BenchmarkChatter(b *testing.B) {
	for _, fleet := range []struct{ workers, aliases int }{{240, 1}, {60, 100}} {
		b.Run(fmt.Sprintf("%d_workers_%d_aliases", fleet.workers, fleet.aliases), func(b *testing.B) {
			var rate float64
			for b.Loop() {
				rate = chatter(b, fleet.workers, fleet.aliases, 5*time.Second)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(rate, "commands/s")
			if rate > 5000 {
				b.Errorf("%.0f commands a second, want 5,000 at most", rate)
			}
		})
	}
}
