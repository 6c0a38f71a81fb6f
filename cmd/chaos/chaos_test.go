package main

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// A small storm over real processes: two workers with the real model, of which one or the other dies twice,
// and Redis once. The text that kills its worker is left to cmd/worker's TestPoison and to make chaos: its
// three crashes take minutes.
func TestSmallStorm(t *testing.T) {
	if testing.Short() {
		t.Skip("what a dead worker had comes back after half a minute; not in -short")
	}
	testkit.RedisServer(t).Stop() // skips without redis-server
	worker := filepath.Join(t.TempDir(), "worker")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "crashtest", "-o", worker, "../worker")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the worker: %v\n%s", err, out)
	}
	var out bytes.Buffer
	err := run(t.Context(), []string{
		"-worker", worker, "-model", testkit.DefaultModel(t), "-onnxruntime", testkit.ONNXRuntime(t),
		"-texts", "300", "-workers", "2", "-concurrency", "64", "-storm", "8s", "-kill-every", "3s", "-redis-kills", "1",
		"-traps", "panic,endless", "-ahead", "1s", "-long", "2", "-share", "0.5", "-limit", "8m",
		"-bound", "60s", // make chaos keeps 10 s; here other packages' tests have the cores
	}, func(name string) (string, bool) {
		if name != "EMBEDFLEET_CACHE" {
			return "", false
		}
		return filepath.Dir(filepath.Dir(testkit.DefaultModel(t))), true
	}, &out)
	if t.Log(out.String()); err != nil {
		t.Error(err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	none := func(name string) (string, bool) { return "/home/x", name == "HOME" }
	for _, args := range [][]string{{"-traps", "killer,nobody"}, {"-texts", "many"}, {"-storm"}} {
		if _, err := parse(args, none); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	p, err := parse([]string{"-traps", ""}, none)
	if err != nil || len(p.traps) != 0 || p.texts != 5000 || p.workers != 3 || p.redisKills != 2 || p.bound != 10*time.Second {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err = parse(nil, none); err != nil || len(p.traps) != len(allTraps) {
		t.Errorf("%+v, %v", p.traps, err)
	}
}

// A report must notice each kind of loss; one that can't is worth nothing.
func TestReportNotices(t *testing.T) {
	t.Parallel()
	docs := []vector.Document{{ID: "a", Text: "one"}, {ID: "b", Text: "two"}}
	record := func(doc vector.Document, chunks int) store.Change {
		rec := &vector.Record{Document: doc, TextHash: vector.TextHash(doc.Text)}
		for range chunks {
			rec.Chunks = append(rec.Chunks, vector.Chunk{Embedding: vector.Embedding{Vector: vector.Vector{1, 0}}})
		}
		return store.Change{ID: doc.ID, Record: rec}
	}
	good := []store.Change{record(docs[0], 1), record(docs[1], 1)}
	panicked := upkeep.Letter{Document: "trap:panic", Code: "panic", Lane: tasks.Live}
	for _, tt := range []struct {
		name    string
		store   []store.Change
		letters []upkeep.Letter
		written int64
		broken  string // the first broken line
	}{
		{"all is well", good, []upkeep.Letter{panicked}, 2, ""},
		{"one is lost", good[:1], []upkeep.Letter{panicked}, 1, "stored, readable, of the right text"},
		{"another text", []store.Change{good[0], {ID: "b", Record: good[0].Record}}, []upkeep.Letter{panicked}, 2, "stored, readable, of the right text"},
		{"a good one is dead", good, []upkeep.Letter{panicked, {Document: "a", Code: "retry"}}, 2, "good texts that are dead"},
		{"two chunks of one", []store.Change{good[0], record(docs[1], 2)}, []upkeep.Letter{panicked}, 2, "stored, readable, of the right text"},
		{"written twice", good, []upkeep.Letter{panicked}, 3, "duplicate vectors"},
		{"unreadable beside", append(good, store.Change{ID: "c", Err: errors.New("torn")}), []upkeep.Letter{panicked}, 2, "vectors that can't be read"},
		{"no verdict", good, nil, 2, "dead, by cause"},
		{"wrong verdict", good, []upkeep.Letter{{Document: "trap:panic", Code: upkeep.CodePoison, Lane: tasks.Quarantine}}, 2, "verdict on the text: panic"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			shelf := &shelf{hashes: map[string]string{}}
			for _, ch := range tt.store {
				shelf.add(ch)
			}
			shelf.stats = store.Stats{Documents: int64(len(shelf.hashes)), TextsTotal: tt.written}
			if tt.written == 2 {
				shelf.stats.Documents = 2
			}
			bad, _ := trapOf("panic")
			s := &stage{plan: plan{traps: []trap{bad}}}
			p := &producer{docs: docs, accepted: []time.Time{time.Now(), time.Now()}}
			r := &report{}
			p.account(r, shelf, tt.letters)
			s.judgeTraps(r, shelf, tt.letters)
			got := ""
			for _, l := range r.lines {
				if l.broken && got == "" {
					got = l.what
				}
			}
			if got != tt.broken || r.broken() != (tt.broken != "") {
				t.Errorf("broken is %q, want %q", got, tt.broken)
			}
			var out bytes.Buffer
			if err := r.print(&out); err != nil || strings.Contains(out.String(), "BROKEN") != r.broken() {
				t.Errorf("%v\n%s", err, out.String())
			}
		})
	}
}

// The watcher's own arithmetic: who is renewed is nobody's orphan, who is not is measured from the first death after the last sign,
// and Redis's absence does not count.
func TestWatcher(t *testing.T) {
	t.Parallel()
	begun := time.Unix(1_700_000_000, 0)
	at := func(s int) time.Time { return begun.Add(time.Duration(s) * time.Second) }
	w := newWatcher(testkit.Logger(t), nil, func() []time.Time { return []time.Time{at(-9), at(3), at(4)} })
	lease := func(id string, renewed int) queue.Lease {
		return queue.Lease{ID: id, Lane: tasks.Live, Until: at(renewed).Add(leaseTime)}
	}
	w.see(at(1), []queue.Lease{lease("done", 0), lease("orphan", 0), lease("busy", 0), lease("late", 0)})
	w.see(at(6), []queue.Lease{lease("orphan", 0), lease("busy", 5), lease("late", 0)})
	w.answered(at(10), false)
	w.answered(at(14), true) // away for 4 s and the look before it
	w.see(at(21), []queue.Lease{lease("orphan", 0), lease("busy", 20), lease("late", 0)})
	w.see(at(33), []queue.Lease{lease("busy", 32), lease("late", 0)})
	w.see(at(34), []queue.Lease{lease("orphan", 34), lease("busy", 32), lease("late", 34)})
	median, longest, n := w.times()
	if want := 31*time.Second - 4*time.Second - lookEvery; n != 2 || longest != want || median < 25*time.Second {
		t.Errorf("%d recoveries, p50 %v, max %v, want 2, max %v", n, median, longest, want)
	}
	w.charge([]queue.Failure{{ID: "a", Cause: "asynq: task lease expired"}, {ID: "b", Retried: 1, Cause: "storing: dial tcp: connection refused"}})
	w.charge([]queue.Failure{{ID: "a", Cause: "asynq: task lease expired"}, {ID: "trap", Cause: "any"}, {ID: "slow", Cause: "context deadline exceeded"}})
	if got, want := w.burnt(map[string]bool{"trap": true}), (toll{redis: 1, deadline: 1, crash: 1, example: "asynq: task lease expired"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A process that has ended is not killed again, and nobody else is in its place.
func TestVictim(t *testing.T) {
	t.Parallel()
	v := &victim{name: "v"}
	if v.kill() {
		t.Error("nobody was killed")
	}
	cmd := exec.CommandContext(context.Background(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	v.started(cmd.Process)
	if !v.kill() || v.kill() {
		t.Error("killed never, or twice")
	}
	_ = cmd.Wait()
	v.started(cmd.Process)
	if v.kill() {
		t.Error("a process that has ended was killed")
	}
	if _, kills := v.counts(); kills != 1 {
		t.Errorf("%d kills", kills)
	}
}
