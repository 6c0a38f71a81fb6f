package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/internal/supervise"
	"github.com/embedfleet/embedfleet/samples"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/imitation"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/scheduler/news"
	"github.com/embedfleet/embedfleet/store"
)

const (
	demoKey      = "demonstration012345678901234567890123456"
	demoHours    = 12 // from 07:00 to 19:00 in Seoul, one a step
	demoStep     = time.Second / 2
	demoStories  = 240
	demoPatience = 10 * time.Second // with a request's header
	demoWait     = 10 * time.Minute // for the workers to finish what was crawled
)

// A demo is a day of filings and news played in some seconds: imitations of OpenDART and of twelve outlets,
// and a scheduler that crawls them as it would crawl the real ones.
type demo struct {
	*app
	dir  string   // for the list of feeds and the certificate
	argv []string // of the scheduler, without a command
	env  []string

	day   time.Time    // midnight of the played day, in Seoul
	hours atomic.Int64 // played since 07:00
	start time.Time
}

// checkDemo refuses what a demonstration may not touch, and finds its binary.
func (set *settings) checkDemo() error {
	if set.redisURL != "" {
		return boot.Usagef("--demo: plays invented news and moved filings, which don't belong into a Redis in use: leave --redis-url out")
	}
	set.data, set.sample = filepath.Join(set.data, "demo"), false
	if set.crawler == "" {
		set.crawler = filepath.Join(filepath.Dir(set.worker), "scheduler")
	}
	if _, err := os.Stat(set.crawler); err != nil {
		return fmt.Errorf("finding the scheduler's binary: %w: run make build, or name it by --scheduler-binary", err)
	}
	return nil
}

// runDemo plays the day, shows what became of it, and leaves a scheduler running in group.
func (a *app) runDemo(ctx context.Context, group *errgroup.Group, redis *server) error {
	day := time.Now().In(scheduler.KST).AddDate(0, 0, -1) // so that no filing is of the future
	y, m, dd := day.Date()
	d := &demo{
		app: a, dir: filepath.Join(a.data, "crawl"), start: time.Now(),
		day: time.Date(y, m, dd, 0, 0, 0, 0, scheduler.KST),
	}
	if err := d.imitate(ctx, group, redis.url); err != nil {
		return fmt.Errorf("starting the demonstration: %w", err)
	}
	if err := d.keep(ctx, group); err != nil {
		return err
	}
	d.say("crawl", "the filings of 3 January 2022, played as yesterday's, and %d invented stories", demoStories)
	for range demoHours {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(demoStep):
		}
		d.hours.Add(1)
		if err := d.crawl(ctx, dart.JobSweep, news.JobFeeds); err != nil {
			return err
		}
	}
	d.say("crawl", "filings that bear a date of weeks ago appear too: the wide sweep looks for those")
	if err := d.crawl(ctx, dart.JobWide); err != nil {
		return err
	}
	conn := redis.conn.Client()
	defer conn.Close()
	if err := d.awaitDocuments(ctx, ledger.New(conn)); err != nil {
		return err
	}
	return d.find(ctx)
}

// now is the time in the played day.
func (d *demo) now() time.Time { return d.day.Add(time.Duration(7+d.hours.Load()) * time.Hour) }

// moment is the time up to which stories have appeared.
func (d *demo) moment() time.Time { return d.start.Add(time.Duration(d.hours.Load()) * demoStep) }

// imitate starts the services and settles how a scheduler is pointed at them.
func (d *demo) imitate(ctx context.Context, group *errgroup.Group, redisURL string) error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	config, _, err := imitation.RSAOnly()
	if err != nil {
		return err
	}
	filings, err := imitation.RealDay(d.day)
	if err != nil {
		return err
	}
	stories := imitation.Stories(d.start, demoStories)
	for i := range stories { // they appear while one watches, as many in each step
		stories[i].At = d.start.Add(time.Duration(i) * demoHours * demoStep / demoStories)
	}
	disclosures, err := d.listen(ctx, group, &http.Server{
		Handler: imitation.NewDART(filings, &imitation.Options{Key: demoKey, Now: d.now}), TLSConfig: config, ReadHeaderTimeout: demoPatience,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/2 refuses such ciphers
	})
	if err != nil {
		return err
	}
	outlets, err := d.listen(ctx, group, &http.Server{Handler: imitation.NewNews(stories, d.moment), ReadHeaderTimeout: demoPatience})
	if err != nil {
		return err
	}
	ca := filepath.Join(d.dir, "opendart.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: config.Certificates[0].Certificate[0]})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		return err
	}
	feeds := filepath.Join(d.dir, "feeds.json")
	list, err := feedList()
	if err != nil {
		return err
	}
	if err := os.WriteFile(feeds, list, 0o600); err != nil {
		return err
	}
	d.say("opendart", "an imitation on https://%s, TLS with RSA key exchange only, as the real one", disclosures)
	d.say("outlets", "an imitation of %d on http://%s, each with its own encoding and dates", imitation.Feeds, outlets)
	d.argv = []string{
		d.crawler, "--alias", d.alias, "--http", "127.0.0.1:0", "--dart-url", "https://" + disclosures + "/api", "--dart-ca", ca,
		"--feeds", feeds, "--log-level", d.log.Level, "--log-format", d.log.Format,
	}
	// The outlets have hosts of their own, since a host is asked one feed at a time: they are reached as one
	// reaches the world from behind a proxy.
	d.env = append(clean(os.Environ()), "REDIS_URL="+redisURL, "OPENDART_API_KEY="+demoKey, "HTTP_PROXY=http://"+outlets, "NO_PROXY=127.0.0.1")
	return nil
}

// clean leaves out what of the user's environment would configure the scheduler otherwise.
func clean(environ []string) (out []string) {
	for _, e := range environ {
		if !strings.HasPrefix(e, "EMBEDFLEET_") && !strings.Contains(e, "DART_API_KEY=") {
			out = append(out, e)
		}
	}
	return out
}

func feedList() ([]byte, error) {
	var list []news.Feed
	for i := range imitation.Feeds {
		list = append(list, news.Feed{Name: fmt.Sprintf("outlet-%d", i), URL: fmt.Sprintf("http://outlet-%d.example/feed/%d", i, i)})
	}
	return json.Marshal(list)
}

// listen serves on a free port of the loopback until ctx ends.
func (d *demo) listen(ctx context.Context, group *errgroup.Group, srv *http.Server) (address string, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	srv.ErrorLog = slog.NewLogLogger(d.logger.Handler(), slog.LevelDebug)
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	group.Go(func() error {
		serve := srv.Serve
		if srv.TLSConfig != nil {
			serve = func(l net.Listener) error { return srv.ServeTLS(l, "", "") }
		}
		if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving the demonstration: %w", err)
		}
		return nil
	})
	return l.Addr().String(), nil
}

// keep starts the scheduler that runs as long as the fleet.
func (d *demo) keep(ctx context.Context, group *errgroup.Group) error {
	file, err := d.logFile("scheduler.log")
	if err != nil {
		return err
	}
	child := supervise.New(d.logger, "scheduler", d.argv, d.env, &supervise.Options{
		Output: file, Final: func(status int) bool { return status == boot.StatusUsage },
	})
	group.Go(func() error {
		defer file.Close()
		if err := child.Run(ctx); err != nil {
			return fmt.Errorf("%w; %s says why", err, file.Name())
		}
		return nil
	})
	return nil
}

// crawl runs the current slot of jobs by hand, as anybody may, and says what came of it.
func (d *demo) crawl(ctx context.Context, jobs ...string) error {
	for _, job := range jobs {
		r, err := d.slot(ctx, job)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("%d new of %d listed, by %d requests", r.New, r.Items, r.Requests)
		if r.Repeated > 0 {
			what += fmt.Sprintf(", %d told by another outlet before", r.Repeated)
		}
		d.say("crawl", "%s  %-9s %s", d.now().Format("15:04"), job, what)
	}
	return nil
}

// slot waits for the scheduler that keeps the clock, if that runs the job just now.
func (d *demo) slot(ctx context.Context, job string) (r scheduler.Report, err error) {
	for range 20 {
		var out, problem bytes.Buffer
		args := append(slices.Clone(d.argv[1:]), "run", job)
		cmd := exec.CommandContext(ctx, d.argv[0], args...) //nolint:gosec // our own scheduler, beside us or as the user named it
		cmd.Env, cmd.Stdout, cmd.Stderr = d.env, &out, &problem
		if err = cmd.Run(); err == nil {
			return r, json.Unmarshal(out.Bytes(), &r)
		}
		err = fmt.Errorf("scheduler run %s: %w: %s", job, err, strings.TrimSpace(problem.String()))
		if !strings.Contains(problem.String(), "under way") {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(time.Second / 2):
		}
	}
	return r, err
}

// awaitDocuments returns when all that was crawled can be searched, and says how long that took.
func (d *demo) awaitDocuments(ctx context.Context, l *ledger.Ledger) error {
	ctx, cancel := context.WithTimeoutCause(ctx, demoWait, errors.New("the crawled documents were not all embedded in time"))
	defer cancel()
	said := int64(-1)
	for {
		list, err := l.Status(ctx)
		if err != nil {
			return err
		}
		waiting := int64(0)
		for _, s := range list {
			waiting += s.Freshness.Awaited
		}
		if waiting == 0 {
			d.sayFresh(list)
			return nil
		}
		if waiting != said {
			d.say("embed", "%d documents on their way", waiting)
			said = waiting
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Second):
		}
	}
}

func (d *demo) sayFresh(list []ledger.SourceStatus) {
	for _, s := range list {
		if s.Freshness.Documents > 0 {
			d.say("fresh", "%s: %d documents can be searched, half of them %.1f s after they appeared, 99 %% within %.1f s",
				s.Source, s.Freshness.Documents, s.Freshness.P50, s.Freshness.P99)
		}
	}
}

// find searches what was crawled.
func (d *demo) find(ctx context.Context) error {
	for _, q := range samples.Queries(samples.Ko)[:2] {
		result, err := d.search.Search(ctx, q.Text, shown, store.Filter{})
		if err != nil {
			return fmt.Errorf("searching %q: %w", q.Text, err)
		}
		fmt.Fprintf(d.out, "\nsearch   %q in %d documents\n", q.Text, result.Documents)
		if err := term.Hits(d.out, gateway.NewSearchAnswer(result).Hits); err != nil {
			return err
		}
	}
	fmt.Fprintln(d.out)
	d.say("clock", "the scheduler goes on: filings every 5 min on working days, news every 10; scheduler status shows it")
	return nil
}
