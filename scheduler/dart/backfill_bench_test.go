package dart_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
)

const (
	benchDays   = 200
	benchPerDay = 500
)

// years lists 500 filings for every day.
type years struct{ calls int }

func (y *years) Traffic() (int, int) { return y.calls, 0 }

func (y *years) List(_ context.Context, q dart.Query) (dart.Page, error) {
	y.calls++
	day := q.From.In(scheduler.KST).Format("20060102")
	page := dart.Page{Number: q.Page, Pages: benchPerDay / dart.PageSize, Total: benchPerDay}
	for i := range dart.PageSize {
		n := (q.Page-1)*dart.PageSize + i
		page.Filings = append(page.Filings, dart.Filing{
			Receipt: fmt.Sprintf("%s%06d", day, n), Date: day, CorpCode: fmt.Sprintf("%08d", n), CorpName: fmt.Sprintf("가상기업%d", n),
			StockCode: fmt.Sprintf("%06d", n), Class: "K", Report: "단일판매ㆍ공급계약체결(자율공시)", Filer: fmt.Sprintf("가상기업%d", n), Remark: "코",
		})
	}
	return page, nil
}

// BenchmarkBackfill hands 100,000 filings in and prints what each costs until a worker takes it: keys and
// memory of Redis, and time. What a stored document costs is in package store/redis.
func BenchmarkBackfill(b *testing.B) {
	for b.Loop() {
		rdb := testkit.Redis(b)
		before := usedMemory(b, rdb.Info(b.Context(), "memory").Val())
		source := ledger.New(rdb).Source(dart.Source, dart.KeepSeen)
		from := time.Date(2015, 1, 1, 0, 0, 0, 0, scheduler.KST)
		log := slog.New(slog.DiscardHandler)
		began := time.Now()
		err := dart.NewBackfill(log, dart.BackfillParts{
			Client: &years{}, Marker: source, Outbox: scheduler.Outbox{
				Log: log, Alias: "m", Lane: tasks.Backfill, Memory: source, Queue: enqueuer{queue.NewClient(rdb, nil)}, Store: storeredis.New(rdb),
			},
		}).Run(b.Context(), from, from.AddDate(0, 0, benchDays-1), nil)
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(began)
		const docs = benchDays * benchPerDay
		b.ReportMetric(float64(usedMemory(b, rdb.Info(b.Context(), "memory").Val())-before)/docs, "B/doc")
		b.ReportMetric(float64(rdb.DBSize(b.Context()).Val())/docs, "keys/doc")
		b.ReportMetric(docs/took.Seconds(), "docs/s")
	}
}

// usedMemory reads INFO.
func usedMemory(b *testing.B, info string) int64 {
	b.Helper()
	for line := range strings.Lines(info) {
		if text, ok := strings.CutPrefix(line, "used_memory:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("no used_memory")
	return 0
}
