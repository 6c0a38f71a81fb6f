package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// Every contestant does all of its tasks, and none is left in Redis.
func TestQueueContestants(t *testing.T) {
	t.Parallel()
	for name := range queueContestants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := testkit.RedisServer(t)
			m, err := queueChild(t.Context(), name, []string{redis.Addr, "300"})
			if err != nil || m.Seconds <= 0 || m.Texts < 300 {
				t.Fatalf("%+v, %v", m, err)
			}
			left := redis.Client().LLen(t.Context(), "asynq:{"+laneName+"}:pending").Val()
			want := int64(0)
			if strings.HasPrefix(name, "enqueue") {
				want = int64(m.Texts)
			}
			if left != want {
				t.Errorf("%d tasks wait, want %d", left, want)
			}
		})
	}
	for _, args := range [][]string{{"nobody", "x", "1"}, {"noop_ours", "x"}, {"noop_ours", "x", "many"}} {
		if _, err := queueChild(t.Context(), args[0], args[1:]); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

// The queue's figures join those of another run and leave them alone.
func TestQueueReport(t *testing.T) {
	t.Parallel()
	b := &bench{out: filepath.Join(t.TempDir(), "latest.json"), rounds: 3}
	if err := write(b.out, map[string]figure{"engine": {Median: 1, Unit: "tokens/s"}, "queue_noop_ours": {Median: 7, Unit: "old"}}); err != nil {
		t.Fatal(err)
	}
	results := map[string][]measure{}
	for _, slow := range []float64{1, 2, 10} { // the machine, under all of them
		results["noop_ours"] = append(results["noop_ours"], measure{Seconds: slow, Texts: 200})
		results["noop_asynq"] = append(results["noop_asynq"], measure{Seconds: 2 * slow, Texts: 200})
		results["enqueue_ours"] = append(results["enqueue_ours"], measure{Seconds: slow, Texts: 800})
		results["enqueue_asynq"] = append(results["enqueue_asynq"], measure{Seconds: slow, Texts: 200})
	}
	for range 2 {
		if err := b.queueReport(results, 200); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(b.out)
	if err != nil {
		t.Fatal(err)
	}
	var figures map[string]figure
	if err := json.Unmarshal(content, &figures); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]figure{
		"engine":                 {Median: 1, Unit: "tokens/s"},
		"queue_noop_ours":        {Median: 100, Unit: "tasks/s"},
		"queue_noop_vs_asynq":    {Median: 100, Unit: "tasks/s", RatioTo: "noop_asynq", Ratio: 2},
		"queue_enqueue_vs_asynq": {Median: 400, Unit: "tasks/s", RatioTo: "enqueue_asynq", Ratio: 4},
	} {
		if figures[name] != want {
			t.Errorf("%s is %+v, want %+v", name, figures[name], want)
		}
	}
	if err := os.WriteFile(b.out, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.queueReport(results, 200); err == nil {
		t.Error("figures that can't be read are overwritten")
	}
}
