package lanes_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/cmd/internal/lanes"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// What Prometheus gets of a real Redis, as a scheduler serves it.
func TestLaneSeries(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	var list []tasks.Task
	for _, id := range []string{"a", "b", "c"} {
		made, err := tasks.New("minilm", tasks.Live, vector.Document{ID: id, Text: "a text of " + id}, nil)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, made)
	}
	all := queue.NewLanes(rdb)
	for range 2 { // the second time they are duplicates
		if _, err := queue.NewClient(rdb, nil).Enqueue(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	if err := all.Pause(t.Context(), "minilm", tasks.Backfill); err != nil {
		t.Fatal(err)
	}
	crawler := monitoring.NewCrawler("v1")
	crawler.Registry().MustRegister(monitoring.NewLanes(lanes.Reader(all, "minilm")))
	w := httptest.NewRecorder()
	crawler.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	body := w.Body.String()
	for _, want := range []string{
		`embed_queue_tasks{lane="live",model="minilm",state="pending"} 3`,
		`embed_queue_tasks{lane="query",model="minilm",state="pending"} 0`,
		`embed_queue_duplicates_avoided_total{lane="live",model="minilm"} 3`,
		`embed_queue_paused{lane="backfill",model="minilm"} 1`,
		`embed_queue_up 1`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	// Three short texts.
	if !regexp.MustCompile(`embed_queue_waiting_tokens\{lane="live",model="minilm"\} [1-9][0-9]?\n`).MatchString(body) ||
		!regexp.MustCompile(`embed_queue_oldest_pending_seconds\{lane="live",model="minilm"\} [0-9.e-]+\n`).MatchString(body) {
		t.Errorf("tokens or age are missing:\n%s", regexp.MustCompile(`(?m)^embed_queue_(waiting|oldest).*$`).FindAllString(body, -1))
	}
	if strings.Contains(body, `embed_queue_eta_seconds{lane="live"`) {
		t.Error("a time is told that nobody knows")
	}
}
