package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/engine"
	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/embedder"
	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const testPatience = 20 * time.Second

// A trial is a worker under test with a fake model, on a real Redis.
type trial struct {
	t      *testing.T
	worker *worker
	fleet  *fleet.Fleet
	redis  *testkit.Server
	probes string
	gate   chan error // what the load returns, once
	fake   *fakeModel
	stop   context.CancelFunc
	ended  chan error
}

func newTrial(t *testing.T, redis *testkit.Server, space vector.Space, change func(*config)) *trial {
	t.Helper()
	conn, err := queue.Parse(redis.URL())
	if err != nil {
		t.Fatal(err)
	}
	cfg := config{conn: conn, lanes: []tasks.Lane{tasks.Query, tasks.Live}, serveFlags: serveFlags{
		alias: "quote", concurrency: 32, queries: 4, http: boot.Address{HostPort: "127.0.0.1:0"}, grace: 5 * time.Second,
		accessTimeout: 30 * time.Second,
	}}
	if change != nil {
		change(&cfg)
	}
	f, err := fleet.Open(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	x := &trial{
		t: t, fleet: f, redis: redis, worker: newWorker(testkit.Logger(t), cfg), gate: make(chan error, 1), ended: make(chan error, 1),
		fake: &fakeModel{stalled: make(chan struct{}), lost: make(chan struct{})},
	}
	x.fake.call = func(ctxs []context.Context) func() { return x.worker.inFlight.Mark(ctxs) }
	x.worker.load = func(ctx context.Context) (*loaded, error) {
		x.fake.loads.Add(1)
		x.worker.staged(engine.Stage{Name: "checking"})
		select {
		case err := <-x.gate:
			return x.fake.loaded(space), err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	address := make(chan net.Addr, 1)
	x.worker.listen = func(a net.Addr) { address <- a }
	ctx, stop := context.WithCancel(t.Context())
	x.stop = stop
	go func() { x.ended <- x.worker.run(ctx) }()
	x.probes = "http://" + (<-address).String()
	t.Cleanup(stop)
	return x
}

// A fakeModel is what a trial's worker loads.
type fakeModel struct {
	embedtest.Embedder
	loads   atomic.Int32
	stalled chan struct{}                  // a text "stall" is inside until it is closed
	lost    chan struct{}                  // closed when no device is left
	call    func([]context.Context) func() // the engine's OnCall
	cost    embedder.Cost                  // learned at the warm-up

	mu     sync.Mutex
	limits embedder.Limits
	groups []int // how many documents were handed over together
}

func (m *fakeModel) EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded] {
	m.mu.Lock()
	m.groups = append(m.groups, len(texts))
	m.mu.Unlock()
	return embedtest.Each(ctxs, texts, m.EmbedDocument)
}

// EmbedDocument is a native call of one text.
func (m *fakeModel) EmbedDocument(ctx context.Context, text string) ([]vector.Chunk, error) {
	defer m.call([]context.Context{ctx})()
	switch {
	case strings.HasPrefix(text, "stall"):
		<-m.stalled // as a native call that does not come back: it heeds no context
	case strings.HasPrefix(text, "dawdle"):
		<-ctx.Done()
	}
	return m.Embedder.EmbedDocument(ctx, text)
}

func (m *fakeModel) loaded(space vector.Space) *loaded {
	return &loaded{
		Embedder: m, space: space, dim: m.Dim(), precision: "fp32", runners: 2,
		stats: func() embedder.Stats {
			m.mu.Lock()
			defer m.mu.Unlock()
			return embedder.Stats{
				State: embedder.Ready, Device: "cpu", Limits: m.limits, Counts: embedder.Counts{Loads: int64(m.loads.Load())},
				Engine: embedder.EngineStats{Cost: m.cost},
			}
		},
		limits: func(c embedder.LimitChange) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			if *c.MaxAccess == 666 {
				return errors.New("max access 666 is not for this model")
			}
			m.limits.MaxAccess, m.limits.MaxWaiting, m.limits.AccessTimeout = *c.MaxAccess, *c.MaxWaiting, time.Duration(*c.AccessTimeout)
			return nil
		},
		lost:  m.lost,
		close: func(context.Context) error { return nil },
	}
}

// statusz is the answer of /statusz.
type statusz struct {
	Worker registry.Worker `json:"worker"`
	Engine embedder.Stats  `json:"engine"`
}

func (x *trial) status() (s statusz) {
	x.t.Helper()
	if code, body := x.get("/statusz"); code != http.StatusOK || json.Unmarshal([]byte(body), &s) != nil {
		x.t.Errorf("/statusz: %d %s", code, body)
	}
	return s
}

func (x *trial) get(path string) (int, string) {
	x.t.Helper()
	req, err := http.NewRequestWithContext(x.t.Context(), http.MethodGet, x.probes+path, http.NoBody)
	if err != nil {
		x.t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		x.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		x.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (x *trial) until(what string, ok func() bool) {
	x.t.Helper()
	for deadline := time.Now().Add(testPatience); !ok(); {
		if time.Now().After(deadline) {
			x.t.Fatalf("not within %v: %s", testPatience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (x *trial) state() string {
	list, err := x.fleet.Workers.List(x.t.Context())
	if err != nil || len(list) != 1 {
		return fmt.Sprintf("%d workers, %v", len(list), err)
	}
	return list[0].State
}

// end waits for the worker to stop by itself or after stop.
func (x *trial) end() error {
	x.t.Helper()
	select {
	case err := <-x.ended:
		return err
	case <-time.After(testPatience):
		x.t.Fatal("the worker does not end")
		return nil
	}
}

func (x *trial) enqueue(texts ...string) []queue.Receipt {
	x.t.Helper()
	list := make([]tasks.Task, len(texts))
	for i, text := range texts {
		var err error
		if list[i], err = tasks.New("quote", tasks.Live, vector.Document{ID: text, Text: text}, nil); err != nil {
			x.t.Fatal(err)
		}
	}
	receipts, err := x.fleet.Queue.Enqueue(x.t.Context(), list)
	if err != nil {
		x.t.Fatal(err)
	}
	return receipts
}

// finds searches for the text of a document, which is named like it, among so many.
func (x *trial) finds(text string, among int) {
	x.t.Helper()
	service := x.fleet.Search(testkit.Logger(x.t), "quote", &search.Options{Timeout: testPatience})
	result, err := service.Search(x.t.Context(), text, 1, store.Filter{})
	if err != nil || len(result.Hits) != 1 || result.Hits[0].Document.ID != text || result.Hits[0].Score < 0.999 || result.Documents != among {
		x.t.Errorf("search: %+v, %v", result, err)
	}
}

func TestTasksQueueWhileTheModelLoadsAndAreServedAfter(t *testing.T) {
	x := newTrial(t, testkit.RedisServer(t), "s1", nil)
	receipts := x.enqueue("one", "two", "three")
	x.until("the worker shows itself", func() bool { return x.state() == registry.StateLoading })
	if code, body := x.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, registry.StateLoading) {
		t.Errorf("/readyz while loading: %d %q", code, body)
	}
	if code, _ := x.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez while loading: %d", code)
	}
	lanes, err := x.fleet.Lanes.Status(t.Context(), "quote")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lanes {
		if l.Lane == tasks.Live && (l.Pending != 3 || l.Active != 0) {
			t.Errorf("a task was taken before the model was there: %+v", l)
		}
	}

	x.gate <- nil
	if failures, err := x.fleet.Queue.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
		t.Fatalf("waiting: %v, %v", failures, err)
	}
	x.until("ready", func() bool {
		code, _ := x.get("/readyz")
		return code == http.StatusOK && x.state() == registry.StateReady
	})
	rec, err := x.fleet.Store.Get(t.Context(), "quote", "two")
	if err != nil || rec.Space != "s1" || len(rec.Chunks) != 1 {
		t.Errorf("stored %+v, %v", rec, err)
	}
	if _, body := x.get("/metrics"); !strings.Contains(body, `embed_tasks_total{code="stored",kind="embed:document",outcome="done"} 3`) {
		t.Errorf("/metrics does not count 3 stored documents:\n%s", body)
	}
	if s := x.status(); s.Worker.State != registry.StateReady || s.Engine.State != embedder.Ready || s.Worker.Dim != x.fake.Dim() ||
		s.Worker.Device != "cpu" || s.Worker.Precision != "fp32" || s.Worker.Runners != 2 || s.Worker.Memory.RSS == 0 {
		t.Errorf("/statusz: %+v", s)
	}

	x.finds("three", 3)
	x.stop()
	if err := x.end(); err != nil {
		t.Errorf("ended with %v", err)
	}
	if list, err := x.fleet.Workers.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("the registry still shows %v, %v", list, err)
	}
}

func TestALoadThatFailsEndsTheWorker(t *testing.T) {
	x := newTrial(t, testkit.RedisServer(t), "s1", nil)
	receipts := x.enqueue("one")
	cause := errors.New("config.json: model_type \"t5\" is not supported")
	x.gate <- cause
	if err := x.end(); !errors.Is(err, boot.ErrModel) || !errors.Is(err, cause) {
		t.Errorf("ended with %v", err)
	}
	lanes, err := x.fleet.Lanes.Status(t.Context(), receipts[0].Model)
	if err != nil || lanes[1].Pending != 1 {
		t.Errorf("the task does not wait any more: %+v, %v", lanes, err)
	}
}

// A hub that is away is no fault of the model: the status must let a supervisor try again.
func TestAFetchThatFailsIsWorthARestart(t *testing.T) {
	x := newTrial(t, testkit.RedisServer(t), "s1", nil)
	x.gate <- fmt.Errorf("%w acme/tiny: connection refused", engine.ErrFetch)
	if err := x.end(); !errors.Is(err, engine.ErrFetch) || errors.Is(err, boot.ErrModel) {
		t.Errorf("ended with %v", err)
	}
}

func TestStoppedWhileLoading(t *testing.T) {
	x := newTrial(t, testkit.RedisServer(t), "s1", nil)
	x.until("the worker shows itself", func() bool { return x.state() == registry.StateLoading })
	x.stop()
	if err := x.end(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestAnAliasKeepsItsSpace(t *testing.T) {
	redis := testkit.RedisServer(t)
	first := newTrial(t, redis, "s1", nil)
	first.gate <- nil
	first.until("ready", func() bool { return first.state() == registry.StateReady })
	first.stop()
	if err := first.end(); err != nil {
		t.Fatal(err)
	}

	second := newTrial(t, redis, "s2", nil)
	second.gate <- nil
	err := second.end()
	var space *store.SpaceError
	if !errors.As(err, &space) || !errors.Is(err, boot.ErrModel) || !strings.Contains(err.Error(), "--reembed") {
		t.Errorf("a worker of another space ended with %v", err)
	}

	third := newTrial(t, redis, "s2", func(c *config) { c.reembed = true })
	third.gate <- nil
	third.until("ready", func() bool { return third.state() == registry.StateReady })
	third.stop()
	if err := third.end(); err != nil {
		t.Error(err)
	}
}

// A worker whose alias is taken over while it serves ends, and its tasks go to the new one.
func TestATakenOverWorkerMakesRoom(t *testing.T) {
	redis := testkit.RedisServer(t)
	first := newTrial(t, redis, "s1", nil)
	first.gate <- nil
	first.until("ready", func() bool { return first.state() == registry.StateReady })
	if err := first.fleet.Store.ClaimSpace(t.Context(), "quote", "s2", store.ReEmbed); err != nil {
		t.Fatal(err)
	}
	receipts := first.enqueue("one", "two", "three")
	if err := first.end(); !errors.Is(err, boot.ErrModel) || !strings.Contains(err.Error(), "taken over") {
		t.Errorf("the old worker ended with %v", err)
	}
	second := newTrial(t, redis, "s2", nil)
	second.gate <- nil
	if failures, err := second.fleet.Queue.Wait(t.Context(), receipts, nil); err != nil || len(failures) > 0 {
		t.Errorf("waiting: %v, %v", failures, err)
	}
	if rec, err := second.fleet.Store.Get(t.Context(), "quote", "two"); err != nil || rec.Space != "s2" {
		t.Errorf("stored in space %s, %v", rec.Space, err)
	}
	second.stop()
	if err := second.end(); err != nil {
		t.Error(err)
	}
}

// A model that serves no more ends its worker, in a way that a supervisor tries again.
func TestALostModelEndsTheWorker(t *testing.T) {
	x := newTrial(t, testkit.RedisServer(t), "s1", nil)
	x.gate <- nil
	x.until("ready", func() bool { return x.state() == registry.StateReady })
	close(x.fake.lost)
	if err := x.end(); !errors.Is(err, errLost) || errors.Is(err, boot.ErrModel) {
		t.Errorf("ended with %v", err)
	}
}

func TestBusyProbePort(t *testing.T) {
	redis := testkit.RedisServer(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := queue.Parse(redis.URL())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(testkit.Logger(t), config{conn: conn, serveFlags: serveFlags{http: boot.Address{HostPort: l.Addr().String()}}})
	if err := w.run(t.Context()); err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("run() = %v", err)
	}
}
