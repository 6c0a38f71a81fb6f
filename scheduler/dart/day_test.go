package dart_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/imitation"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const key = "abcdefghijklmnopqrstuvwxyz0123456789ABCD"

// A world is one fleet on fake time: a Redis, the service, replicas of the scheduler, workers.
type world struct {
	t       *testing.T
	m       *miniredis.Miniredis
	rdb     *redis.Client
	service *imitation.DART
	docs    *storeredis.Store

	mu     sync.Mutex
	log    bytes.Buffer   // of everything
	embeds map[string]int // how often each document was embedded and stored
	before func(*http.Request) (string, int, string)
}

func (w *world) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(line)
}

// newWorld waits for 3 January 2022, 07:00 in Korea.
func newWorld(t *testing.T, quota int) *world {
	day := time.Date(2022, 1, 3, 7, 0, 0, 0, scheduler.KST)
	time.Sleep(time.Until(day))
	m, rdb := testkit.MiniRedis(t)
	rows, err := imitation.RealDay(day)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, m: m, rdb: rdb, docs: storeredis.New(rdb), embeds: map[string]int{}}
	w.service = imitation.NewDART(rows, &imitation.Options{Key: key, Quota: quota, Before: func(r *http.Request) (string, int, string) {
		time.Sleep(300 * time.Millisecond) // a call takes its time, and filings appear meanwhile
		if w.before == nil {
			return "", 0, ""
		}
		return w.before(r)
	}})
	return w
}

// RoundTrip is the network.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	w.service.ServeHTTP(rec, r)
	if r.Context().Err() != nil {
		return nil, r.Context().Err()
	}
	return rec.Result(), nil
}

// client adapts a queue client as cmd/scheduler does.
type enqueuer struct{ *queue.Client }

func (e enqueuer) Enqueue(ctx context.Context, list []tasks.Task) ([]error, error) {
	receipts, err := e.Client.Enqueue(ctx, list)
	refused := make([]error, len(receipts))
	for i, r := range receipts {
		refused[i] = r.Err
	}
	return refused, err
}

// scheduler starts a replica; kill ends it as kill -9 does.
func (w *world) scheduler() (kill, stop func()) {
	rdb := testkit.MiniClient(w.t, w.m)
	l := ledger.New(rdb)
	source := l.Source(dart.Source, dart.KeepSeen)
	log := slog.New(slog.NewTextHandler(w, nil))
	c := dart.NewClient(key, source, &dart.ClientOptions{HTTP: &http.Client{Transport: w}, Limit: 1 << 20})
	sweeper := dart.NewSweeper(log, dart.SweepParts{Client: c, Links: source, Outbox: scheduler.Outbox{
		Log: log, Alias: "quote", Lane: tasks.Live, Memory: source, Queue: enqueuer{queue.NewClient(rdb, nil)}, Store: storeredis.New(rdb),
	}})
	var jobs []scheduler.Job
	for _, s := range dart.Schedules()[:2] {
		jobs = append(jobs, scheduler.Job{Schedule: s, Timeout: 20 * time.Minute, Do: sweeper.Run})
	}
	s, err := scheduler.New(l, jobs, &scheduler.Options{Logger: log})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx) // never fails
	}()
	stop = func() { cancel(); <-done; _ = rdb.Close() }
	return func() { _ = rdb.Close(); stop() }, stop
}

// counting is a store that counts what is written.
type counting struct {
	*storeredis.Store
	w *world
}

func (c counting) PutMany(ctx context.Context, recs []vector.Record) ([]bool, []error) {
	stored, errs := c.Store.PutMany(ctx, recs)
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	for i, rec := range recs {
		if stored[i] {
			c.w.embeds[rec.Document.ID]++
		}
	}
	return stored, errs
}

// work lets a worker with a fake model drain the lanes for a while. Workers come and go; whoever is away
// costs delay only, and a test's time.
func (w *world) work(d time.Duration) {
	rdb := redis.NewClient(testkit.MiniOptions(w.m))
	defer rdb.Close()
	handler := tasks.NewHandler(slog.New(slog.NewTextHandler(w, nil)), tasks.Parts{
		Model: "quote", Space: "s1", Embedder: &embedtest.Embedder{}, Store: counting{w.docs, w}, Answers: w.docs,
	}, nil)
	server, err := consumer.New(rdb, "quote", []tasks.Lane{tasks.Live, tasks.Backfill}, handler, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	if err := server.Run(ctx); err != nil {
		w.t.Error(err)
	}
}

// until works at the end of each hour until a time of the day.
func (w *world) until(clock string) {
	at, err := time.ParseInLocation("2006-01-02 15:04", clock, scheduler.KST)
	if err != nil {
		w.t.Fatal(err)
	}
	for time.Now().Before(at) {
		time.Sleep(min(time.Hour, time.Until(at)))
		w.work(20 * time.Second)
	}
}

// check asserts that each of the day's filings was stored exactly once and the key shows nowhere.
func (w *world) check() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	twice := 0
	for _, n := range w.embeds {
		if n != 1 {
			twice++
		}
	}
	if len(w.embeds) != 502 || twice > 0 {
		w.t.Errorf("%d of 502 filings are stored, %d of them more than once", len(w.embeds), twice)
	}
	if strings.Contains(w.log.String(), key) {
		w.t.Error("the key is in the log")
	}
	w.t.Logf("%d calls, %d bytes of log", w.service.Calls(), w.log.Len())
}

// aDay runs f on the morning of the real day.
func aDay(t *testing.T, quota int, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(newWorld(t, quota)) })
}

// long skips a day where the short form of the tests is wanted.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("a whole day, and -short is set")
	}
}

func TestTheWholeDay(t *testing.T) {
	t.Parallel()
	aDay(t, 0, func(w *world) {
		_, a := w.scheduler()
		_, b := w.scheduler()
		w.until("2022-01-03 20:05")
		a()
		b()
		w.check()
		rec, err := w.docs.Get(w.t.Context(), "quote", "dart:20220103900690")
		if err != nil || rec.Document.StockCodes[0] != "182690" || rec.Document.Source != "dart" ||
			rec.Document.PublishedAt.In(scheduler.KST).Format("15:04") != "18:58" || !strings.Contains(rec.Document.URL, "rcpNo=20220103900690") {
			t.Errorf("%+v, %v", rec.Document, err)
		}
	})
}

// TestTheWholeDayWithAnOutage: the service is away for four hours, in several ways.
func TestTheWholeDayWithAnOutage(t *testing.T) {
	t.Parallel()
	long(t)
	aDay(t, 0, func(w *world) {
		began := time.Now()
		w.before = func(*http.Request) (string, int, string) {
			switch h := time.Since(began).Hours(); {
			case h > 6 && h < 7.5: // from 13:00
				return "", 502, "<html>bad gateway"
			case h >= 7.5 && h < 9:
				return "800", 0, ""
			case h >= 9 && h < 10:
				return "900", 0, ""
			default:
				return "", 0, ""
			}
		}
		_, a := w.scheduler()
		_, b := w.scheduler()
		w.until("2022-01-03 20:05")
		a()
		b()
		w.check()
	})
}

// TestTheWholeDayOnAClockThatJumpsBackAnHour: Redis's, which is the one that counts, at 15:20.
func TestTheWholeDayOnAClockThatJumpsBackAnHour(t *testing.T) {
	t.Parallel()
	long(t)
	aDay(t, 0, func(w *world) {
		_, a := w.scheduler()
		_, b := w.scheduler()
		w.until("2022-01-03 15:20")
		quit := make(chan struct{})
		done := make(chan struct{})
		w.m.SetTime(time.Now().Add(-time.Hour))
		go func() {
			defer close(done)
			for {
				select {
				case <-quit:
					return
				case <-time.After(time.Second):
					w.m.SetTime(time.Now().Add(-time.Hour))
				}
			}
		}()
		w.until("2022-01-03 21:05") // 20:05 by Redis
		a()
		b()
		close(quit)
		<-done
		w.check()
	})
}

// TestTheWholeDayWithTheQuotaHitAtNoon: the rest comes after midnight, all of it.
func TestTheWholeDayWithTheQuotaHitAtNoon(t *testing.T) {
	t.Parallel()
	long(t)
	aDay(t, 200, func(w *world) {
		_, a := w.scheduler()
		_, b := w.scheduler()
		w.until("2022-01-03 20:05")
		calls := w.service.Calls()
		if n := len(w.embeds); n == 0 || n > 400 || calls > 203 {
			t.Errorf("%d filings in %d calls by the evening, want none after the quota was hit", n, calls)
		}
		w.until("2022-01-04 04:05")
		a()
		b()
		w.check()
	})
}

// TestTheWholeDayWithReplicasKilled: three schedulers die at random moments, and Redis goes away twice.
func TestTheWholeDayWithReplicasKilled(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		if testing.Short() && seed > 0 {
			break
		}
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			aDay(t, 0, func(w *world) {
				chance := rand.New(rand.NewPCG(seed, 7))
				var kills []func()
				for range 3 {
					kill, _ := w.scheduler()
					kills = append(kills, kill)
				}
				end := time.Now().Add(13 * time.Hour)
				for i := 0; time.Now().Before(end); i++ {
					time.Sleep(time.Duration(200+chance.IntN(600)) * time.Second)
					n := chance.IntN(len(kills))
					kills[n]()
					if i%17 == 9 {
						w.m.SetError("LOADING Redis is loading")
						time.Sleep(7 * time.Minute)
						w.m.SetError("")
					}
					kills[n], _ = w.scheduler()
					if i%6 == 5 {
						w.work(20 * time.Second)
					}
				}
				for _, kill := range kills {
					kill()
				}
				w.work(20 * time.Second)
				w.check()
			})
		})
	}
}

// TestAWipedSeenSetIsRebuiltInTheMiddleOfTheDay: nothing is embedded twice.
func TestAWipedSeenSetIsRebuiltInTheMiddleOfTheDay(t *testing.T) {
	t.Parallel()
	long(t)
	aDay(t, 0, func(w *world) {
		_, a := w.scheduler()
		w.until("2022-01-03 14:00")
		if n, err := w.rdb.Del(w.t.Context(), "ef:{crawl:dart}:seen").Result(); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		w.until("2022-01-03 20:05")
		a()
		w.check()
	})
}
