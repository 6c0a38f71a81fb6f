package monitoring_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/embedfleet/embedfleet/monitoring"
)

func TestCrawlSeries(t *testing.T) {
	t.Parallel()
	c := monitoring.NewCrawler("v1")
	c.Run("dart", "done")
	c.Skipped("dart", "slow")
	c.Traffic("dart", 6, 1000)
	c.Documents("dart", "new", 5)
	c.Fresh("dart", 20*time.Second)
	c.Awaiting("dart", 3, time.Minute)
	c.Succeeded("dart", time.Unix(1000, 0))
	c.Paused("news", 1)
	want := `
# HELP crawl_documents_total Items of sources, by what became of them.
# TYPE crawl_documents_total counter
crawl_documents_total{job="dart",outcome="new"} 5
# HELP crawl_oldest_awaited_seconds Age of the oldest of them, 0 if there is none.
# TYPE crawl_oldest_awaited_seconds gauge
crawl_oldest_awaited_seconds{source="dart"} 60
# HELP crawl_paused 1 while the source is paused.
# TYPE crawl_paused gauge
crawl_paused{source="news"} 1
`
	if err := testutil.GatherAndCompare(c.Registry(), strings.NewReader(want), "crawl_documents_total", "crawl_oldest_awaited_seconds", "crawl_paused"); err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(c.Registry())
	problems = slices.DeleteFunc(problems, func(p promlint.Problem) bool { return !strings.HasPrefix(p.Metric, "crawl_") })
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	if code, body := get(t, c.Handler(), "/metrics"); code != 200 || !strings.Contains(body, `crawl_freshness_seconds_count{source="dart"} 1`) {
		t.Errorf("%d %.100s", code, body)
	}
}
