package main

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/registry"
)

// A puppet is a worker's part in the registry: it announces itself and takes orders, and has no model.
type puppet struct {
	mu      sync.Mutex
	entry   registry.Worker
	changed chan struct{}
	end     context.CancelFunc
}

func startPuppet(t *testing.T, redis *testkit.Server, entry registry.Worker) *puppet {
	t.Helper()
	rdb := redis.Client()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	p := &puppet{entry: entry, changed: make(chan struct{}, 1), end: cancel}
	var running sync.WaitGroup
	running.Go(func() { _ = registry.NewWorkers(rdb).Announce(ctx, testkit.Logger(t), p.read, p.changed) })
	running.Go(func() { _ = registry.NewControl(rdb).Follow(ctx, testkit.Logger(t), entry, p.obey) })
	t.Cleanup(func() { cancel(); running.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if list, err := registry.NewWorkers(rdb).List(t.Context()); err == nil && strings.Contains(jsonOf(t, list), entry.ID) {
			return p
		}
		if time.Now().After(deadline) {
			t.Fatal("the puppet does not show")
		}
	}
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (p *puppet) read() registry.Worker { p.mu.Lock(); defer p.mu.Unlock(); return p.entry }

func (p *puppet) obey(o registry.Order) {
	if o.Drain {
		p.end()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entry.Revision, p.entry.Refused = o.Revision, ""
	if o.MaxAccess == 666 {
		p.entry.Refused = "max access 666 is not for this model"
	} else {
		p.entry.Settings = o.Over(registry.Settings{Concurrency: 512, MaxAccess: 576, AccessTimeout: registry.Seconds(30 * time.Second)})
	}
	p.changed <- struct{}{}
}

func TestFleet(t *testing.T) {
	t.Parallel()
	redis := testkit.RedisServer(t)
	flags := registry.Settings{Concurrency: 512, MaxAccess: 576, AccessTimeout: registry.Seconds(30 * time.Second)}
	first := startPuppet(t, redis, registry.Worker{ID: "aaaa-1", Model: "m", State: registry.StateReady, Host: "h", PID: 7, Name: "worker-1", Settings: flags})
	second := startPuppet(t, redis, registry.Worker{ID: "aabb-2", Model: "m", State: registry.StateBusy, Host: "h", PID: 8, Settings: flags})
	other := startPuppet(t, redis, registry.Worker{ID: "cccc-3", Model: "n", State: registry.StateReady, Host: "h", PID: 9, Settings: flags})
	startPuppet(t, redis, registry.Worker{ID: "dddd-4", Model: "m", State: registry.StateFailed, Host: "h", PID: 5, Reason: "5 crashes in 10m0s"})
	check := func(p *puppet, want registry.Settings) {
		t.Helper()
		if got := p.read().Settings; got != want {
			t.Errorf("%s has %v, want %v", p.read().ID, got, want)
		}
	}

	status, out, errs := call(t, redis, "", "fleet", "list")
	expect(t, status, 0, out+errs, "aaaa-1", "worker-1 h:7", "h:8", "busy", "512", "30s", "5 crashes in 10m0s")
	status, out, errs = call(t, redis, "", "fleet", "list", "--model", "n", "--json")
	var w registry.Worker
	if err := json.Unmarshal([]byte(out), &w); err != nil || status != 0 || w.ID != "cccc-3" {
		t.Errorf("%d %s%s", status, out, errs)
	}

	// As the issue has it.
	status, out, errs = call(t, redis, "", "fleet", "set", "--worker", "all", "--concurrency", "8", "--max-access", "16", "--access-timeout", "20s")
	expect(t, status, 0, out+errs, "aaaa-1", "aabb-2", "cccc-3", "20s")
	want := registry.Settings{Concurrency: 8, MaxAccess: 16, AccessTimeout: registry.Seconds(20 * time.Second)}
	for _, p := range []*puppet{first, second, other} {
		check(p, want)
	}
	status, out, errs = call(t, redis, "", "fleet", "set", "--model", "m", "--concurrency", "100")
	expect(t, status, 0, out+errs, "aaaa-1", "aabb-2")
	want.Concurrency = 100
	check(first, want)
	check(second, want)
	want.Concurrency = 8
	check(other, want)
	status, out, errs = call(t, redis, "", "fleet", "set", "--worker", "worker-1,h:8", "--max-access", "3", "--json")
	if status != 0 || strings.Count(out, "\n") != 2 || !strings.Contains(out, `"max_access":3`) {
		t.Errorf("%d %s%s", status, out, errs)
	}
	status, out, errs = call(t, redis, "", "fleet", "set", "--model", "n", "--reset")
	expect(t, status, 0, out+errs, "cccc-3")
	check(other, flags)

	// Refusals change nothing and name the bound.
	before := first.read()
	for _, tt := range []struct {
		args string
		code int
		want []string
	}{
		{"set --worker all --concurrency 4097 --max-access 0 --access-timeout 25h", 2,
			[]string{"--concurrency: concurrency 4097, want 1 to 4096", "--max-access: 0 is out of bounds", "(1 to 1048576)", "access timeout 25h0m0s, want 1ms to 24h0m0s"}},
		{"set --worker all --concurrency -1 --max-access 5", 2, []string{"concurrency -1, want 1 to 4096"}},
		{"set --concurrency 5", 2, []string{"--worker all, --worker ID, or --model ALIAS"}},
		{"set --worker all", 2, []string{"nothing to set"}},
		{"set --worker all --reset --concurrency 5", 2, []string{"either that or values"}},
		{"set --worker aa --concurrency 5", 1, []string{`2 workers are called "aa"`}},
		{"set --worker zz --concurrency 5", 1, []string{`no worker "zz"`}},
		{"set --worker aaaa --max-access 666", 1, []string{"aaaa-1", "refused: max access 666"}},
		{"drain", 2, []string{"--worker"}},
	} {
		status, out, errs := call(t, redis, "", append([]string{"fleet"}, strings.Fields(tt.args)...)...)
		expect(t, status, tt.code, out+errs, tt.want...)
	}
	check(first, before.Settings)
	status, out, errs = call(t, redis, "", "fleet", "set", "--model", "later", "--concurrency", "5")
	expect(t, status, 0, out+errs, "no worker of later runs; those that start will have it")

	status, out, errs = call(t, redis, "", "fleet", "drain", "--worker", "aabb")
	expect(t, status, 0, out+errs, "aabb-2", "h:8", "ended")
	status, out, errs = call(t, redis, "", "fleet", "events")
	expect(t, status, 0, out+errs, registry.EventDrain, registry.EventSettings, "concurrency 8, max access 16, access timeout 20s", "somebody@")
}
