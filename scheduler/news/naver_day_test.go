package news_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/imitation"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/scheduler/news"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
)

// A world of news: outlets' feeds and Naver's search over the same stories.
type world struct{ feeds, search http.Handler }

func (w world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "search") {
		w.search.ServeHTTP(rw, r)
		return
	}
	w.feeds.ServeHTTP(rw, r)
}

// TestADayOfNaver: the search in either shape beside three of the twelve feeds, through two schedulers, queue,
// worker and store. Each story is embedded once, whoever told it first, and the secret is in no line.
func TestADayOfNaver(t *testing.T) {
	t.Parallel()
	for _, shape := range []news.Shape{news.Legacy, news.Hub} {
		t.Run(string(shape), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { aDayOfNaver(t, shape) })
		})
	}
}

func aDayOfNaver(t *testing.T, shape news.Shape) {
	m, rdb := testkit.MiniRedis(t)
	// Not from the first second on, when both jobs catch their slots up at once: what both find in the same moment
	// is embedded twice, as two versions of one document.
	stories := imitation.Stories(time.Now().Add(time.Minute), 100)
	const id, secret = "the-id-of-a-client", "the-secret-of-a-client"
	server := network{world{imitation.NewNews(stories, nil), imitation.NewNaver(stories, imitation.NaverOptions{ID: id, Secret: secret})}}
	feeds := list{}
	for i := range 3 {
		feeds = append(feeds, news.Feed{Name: fmt.Sprint("f", i), URL: fmt.Sprintf("https://outlet%d.example/feed/%d", i, i)})
	}
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	sum := &tally{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	for range 2 {
		own := testkit.MiniClient(t, m)
		l := ledger.New(own)
		source := l.Source(news.Source, news.KeepSeen)
		outbox := scheduler.Outbox{
			Log: slog.New(slog.DiscardHandler), Alias: "quote", Lane: tasks.Live, Memory: source, Queue: enqueuer{queue.NewClient(own, nil)}, Store: storeredis.New(own),
		}
		client := &http.Client{Transport: server}
		naver, err := news.NewNaver(logger, outbox, news.NaverOptions{Shape: shape, ID: id, Secret: secret, Queries: []string{"가상기업", "배당 확대"}, HTTP: client})
		if err != nil {
			t.Fatal(err)
		}
		c := news.New(slog.New(slog.DiscardHandler), news.Parts{Feeds: feeds, States: source, HTTP: client, Outbox: outbox})
		s, err := scheduler.New(l, []scheduler.Job{
			{Schedule: news.Schedules()[0], Timeout: 8 * time.Minute, Do: c.Run}, {Schedule: news.Schedules()[1], Timeout: 8 * time.Minute, Do: naver.Run},
		}, &scheduler.Options{Observer: sum})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = s.Run(ctx); done <- struct{}{} }()
	}
	docs := &counting{Store: storeredis.New(rdb), titles: map[string]int{}}
	for range 5 {
		time.Sleep(5 * time.Hour)
		work(t, testkit.MiniOptions(m), docs)
	}
	cancel()
	<-done
	<-done
	if len(docs.titles) != len(stories) || sum.New != len(stories) {
		t.Errorf("%d titles are stored, %d were new, of %d stories", len(docs.titles), sum.New, len(stories))
	}
	for title, n := range docs.titles {
		if n != 1 || strings.Contains(title, "<b>") {
			t.Errorf("%q is stored %d times", title, n)
		}
	}
	if strings.Contains(log.String(), secret) || strings.Contains(log.String(), id) {
		t.Error("credentials are in the log")
	}
}
