package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/pflag"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/internal/trace"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/imitation"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/scheduler/news"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
)

const (
	benchFilings = 600
	benchStories = 3000
)

// BenchmarkADay runs every slot of a working day, one after the other without the waiting between them, as a
// scheduler with the default schedules does: 600 filings from a server that speaks OpenDART's TLS, and 3,000
// stories, a third of them in two of twelve feeds. It prints what a day costs: requests to sources and bytes
// from them, the CPU time of this process (the imitations' included) and of Redis, what the ledger and the
// 3,600 waiting tasks take in Redis.
func BenchmarkADay(b *testing.B) {
	for b.Loop() {
		d := newDay(b)
		cpu, redisCPU, memory := ownCPU(b), infoOf(b, d.rdb, "cpu", "used_cpu_user", "used_cpu_sys"), infoOf(b, d.rdb, "memory", "used_memory")
		total := d.run(b)
		if total.New != benchFilings+benchStories {
			b.Fatalf("%+v, want %d new documents", total, benchFilings+benchStories)
		}
		b.ReportMetric(float64(total.Requests), "requests/day")
		b.ReportMetric(float64(total.Bytes)/1e6, "MB-received/day")
		b.ReportMetric(ownCPU(b)-cpu, "CPU-s/day")
		b.ReportMetric(infoOf(b, d.rdb, "cpu", "used_cpu_user", "used_cpu_sys")-redisCPU, "redis-CPU-s/day")
		b.ReportMetric((infoOf(b, d.rdb, "memory", "used_memory")-memory)/1e6, "redis-MB")
		b.ReportMetric(ledgerSize(b, d.rdb)/1e6, "ledger-MB")
	}
}

// A benchDay is a scheduler's jobs and the imitations they ask, on one clock.
type benchDay struct {
	rdb  *redis.Client
	jobs []scheduler.Job
	now  atomic.Pointer[time.Time]
	day  time.Time // midnight in Seoul
}

func newDay(b *testing.B) *benchDay {
	b.Helper()
	d := &benchDay{rdb: testkit.Redis(b), day: time.Date(2022, 1, 3, 0, 0, 0, 0, scheduler.KST)}
	d.now.Store(&d.day)
	now := func() time.Time { return *d.now.Load() }
	filings, err := imitation.RealDay(d.day)
	if err != nil {
		b.Fatal(err)
	}
	for i := range benchFilings - len(filings) { // a busier day: some of its filings again, under numbers of their own
		f := filings[i]
		f.RceptNo = f.RceptNo[:8] + fmt.Sprintf("7%05d", i)
		filings = append(filings, f)
	}
	tlsConfig, roots, err := imitation.RSAOnly()
	if err != nil {
		b.Fatal(err)
	}
	disclosures := httptest.NewUnstartedServer(imitation.NewDART(filings, &imitation.Options{Key: key, Now: now}))
	disclosures.TLS = tlsConfig
	disclosures.StartTLS()
	b.Cleanup(disclosures.Close)

	a := &app{streams: streams{tracer: trace.Off()}, log: slog.New(slog.DiscardHandler), rdb: d.rdb, ledger: ledger.New(d.rdb), store: storeredis.New(d.rdb)}
	a.queue, a.web = enqueuer{queue.NewClient(d.rdb, nil)}, newWeb(config{settings: settings{allowPrivate: true}})
	b.Cleanup(a.web.close)
	a.settings.register(boot.New(pflag.NewFlagSet("", pflag.PanicOnError))) // the defaults
	a.cfg = config{settings: a.settings}
	a.cfg.alias, a.cfg.dartKey, a.cfg.dartURL, a.cfg.roots = "m", key, disclosures.URL, roots
	a.cfg.feeds = outlets(b, imitation.NewNews(imitation.Stories(d.day, benchStories), now))
	p, err := a.plan()
	if err != nil {
		b.Fatal(err)
	}
	d.jobs = p.jobs
	return d
}

// outlets serves each feed on an address of its own, since a host is asked one feed at a time, and returns the
// file that lists them. Linux answers on all of 127.0.0.0/8.
func outlets(b *testing.B, h http.Handler) string {
	b.Helper()
	var list []news.Feed
	for i := range imitation.Feeds {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:0", i+1))
		if err != nil {
			b.Skipf("no second address on the loopback: %v", err)
		}
		s := httptest.NewUnstartedServer(h)
		_ = s.Listener.Close()
		s.Listener = l
		s.Start()
		b.Cleanup(s.Close)
		list = append(list, news.Feed{Name: fmt.Sprint("f", i), URL: fmt.Sprintf("%s/feed/%d", s.URL, i)})
	}
	text, err := json.Marshal(list)
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "feeds.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// run runs the day's slots in their order, with a minute after midnight for what came last.
func (d *benchDay) run(b *testing.B) (total scheduler.Report) {
	b.Helper()
	type slot struct {
		at  time.Time
		job scheduler.Job
	}
	var slots []slot
	for _, j := range d.jobs {
		times, err := j.Next(d.day.Add(-time.Second), 24*60+10)
		if err != nil {
			b.Fatal(err)
		}
		for _, at := range times {
			if at.Sub(d.day) <= 24*time.Hour+10*time.Minute {
				slots = append(slots, slot{at, j})
			}
		}
	}
	slices.SortStableFunc(slots, func(a, b slot) int { return a.at.Compare(b.at) })
	last := map[string]time.Time{}
	for _, s := range slots {
		d.now.Store(&s.at)
		r, err := s.job.Do(context.WithoutCancel(b.Context()), scheduler.Tick{Schedule: s.job.Schedule, Slot: s.at, Now: s.at, Since: last[s.job.Job]})
		if err != nil {
			b.Fatalf("%s at %v: %v", s.job.Job, s.at, err)
		}
		last[s.job.Job] = s.at
		total.Add(r)
	}
	return total
}

// ownCPU returns the seconds that this process has computed.
func ownCPU(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// infoOf sums up figures of Redis's INFO.
func infoOf(b *testing.B, rdb *redis.Client, section string, names ...string) (sum float64) {
	b.Helper()
	for line := range strings.Lines(rdb.Info(b.Context(), section).Val()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if !slices.Contains(names, name) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += n
	}
	return sum
}

// ledgerSize returns the bytes that the ledger's keys take.
func ledgerSize(b *testing.B, rdb *redis.Client) (sum float64) {
	b.Helper()
	keys := rdb.Scan(b.Context(), 0, "ef:{crawl:*", 1000).Iterator()
	for keys.Next(b.Context()) {
		n, err := rdb.MemoryUsage(b.Context(), keys.Val(), 0).Result()
		if err != nil {
			b.Fatal(err)
		}
		sum += float64(n)
	}
	return sum
}
