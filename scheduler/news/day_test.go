package news_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/embedder/embedtest"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/consumer"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/imitation"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/scheduler/news"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

type enqueuer struct{ *queue.Client }

func (e enqueuer) Enqueue(ctx context.Context, list []tasks.Task) ([]error, error) {
	receipts, err := e.Client.Enqueue(ctx, list)
	refused := make([]error, len(receipts))
	for i, r := range receipts {
		refused[i] = r.Err
	}
	return refused, err
}

// network answers for every host.
type network struct{ http.Handler }

func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	n.ServeHTTP(rec, r)
	return rec.Result(), nil
}

type list []news.Feed

func (l list) Feeds() ([]news.Feed, error) { return l, nil }

// counting counts what is stored, by title.
type counting struct {
	*storeredis.Store
	mu     sync.Mutex
	titles map[string]int
}

func (c *counting) PutMany(ctx context.Context, recs []vector.Record) ([]bool, []error) {
	stored, errs := c.Store.PutMany(ctx, recs)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, rec := range recs {
		if stored[i] {
			c.titles[rec.Document.Title]++
		}
	}
	return stored, errs
}

// tally sums up reports.
type tally struct {
	mu sync.Mutex
	scheduler.Report
}

func (t *tally) Skipped(string, string) {}
func (t *tally) Ran(_, _ string, r scheduler.Report, _ time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Add(r)
}

// TestADayOfNews: 3,000 stories in a dozen feeds, a third of them in two, through two schedulers, queue,
// worker and store; each is embedded once, with the right time.
func TestADayOfNews(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, rdb := testkit.MiniRedis(t)
		begin := time.Now()
		n := 3000 // an outlet's day
		if testing.Short() {
			n = 300
		}
		stories := imitation.Stories(begin, n)
		feeds := list{}
		for i := range imitation.Feeds {
			feeds = append(feeds, news.Feed{Name: fmt.Sprint("f", i), URL: fmt.Sprintf("https://outlet%d.example/feed/%d", i/2, i)})
		}
		server := network{imitation.NewNews(stories, nil)}
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		sum := &tally{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		for range 2 {
			own := testkit.MiniClient(t, m)
			l := ledger.New(own)
			source := l.Source(news.Source, news.KeepSeen)
			c := news.New(logger, news.Parts{Feeds: feeds, States: source, HTTP: &http.Client{Transport: server}, Outbox: scheduler.Outbox{
				Log: logger, Alias: "quote", Lane: tasks.Live, Memory: source, Queue: enqueuer{queue.NewClient(own, nil)}, Store: storeredis.New(own),
			}})
			s, err := scheduler.New(l, []scheduler.Job{{Schedule: news.Schedules()[0], Timeout: 8 * time.Minute, Do: c.Run}}, &scheduler.Options{Logger: logger, Observer: sum})
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = s.Run(ctx); done <- struct{}{} }()
		}
		docs := &counting{Store: storeredis.New(rdb), titles: map[string]int{}}
		for range 12 {
			time.Sleep(2*time.Hour + time.Minute)
			work(t, testkit.MiniOptions(m), docs)
		}
		cancel()
		<-done
		<-done
		if log.Len() > 0 {
			t.Errorf("log: %.500s", log.String())
		}
		twice := 0
		for _, n := range docs.titles {
			if n != 1 {
				twice++
			}
		}
		if len(docs.titles) != len(stories) || twice > 0 {
			t.Errorf("%d of %d stories are stored, %d more than once", len(docs.titles), len(stories), twice)
		}
		for _, i := range []int{0, 1, 2, 3, 4, 5, 201, n - 1} {
			s := stories[i]
			id := news.Identity(fmt.Sprintf("https://news.example.invalid/view?idxno=%d", i), "", "", s.At)
			rec, err := docs.Get(t.Context(), "quote", id)
			if err != nil || rec.Document.Title != s.Title || !rec.Document.PublishedAt.Equal(s.At) || rec.Document.Fields["published_from"] != "feed" {
				t.Errorf("story %d: %+v, %v; want %v", i, rec.Document, err, s.At)
			}
		}
		t.Logf("%d requests, %d kB, %d items seen, %d new", sum.Requests, sum.Bytes/1000, sum.Items, sum.New)
	})
}

// work lets a worker drain the lanes for a while.
func work(t *testing.T, o *redis.Options, docs *counting) {
	t.Helper()
	rdb := redis.NewClient(o)
	defer rdb.Close()
	handler := tasks.NewHandler(slog.New(slog.DiscardHandler), tasks.Parts{
		Model: "quote", Space: "s1", Embedder: &embedtest.Embedder{}, Store: docs, Answers: docs,
	}, nil)
	server, err := consumer.New(rdb, "quote", []tasks.Lane{tasks.Live}, handler, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := server.Run(ctx); err != nil {
		t.Error(err)
	}
}
