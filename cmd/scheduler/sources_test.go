package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

// newRedisStage is a stage with nothing but a Redis, and nothing configured.
func newRedisStage(t *testing.T) *stage {
	t.Helper()
	redis := testkit.RedisServer(t)
	return &stage{t: t, rdb: redis, env: map[string]string{"REDIS_URL": redis.URL(), "EMBEDFLEET_HTTP": "127.0.0.1:0"}}
}

// acme is the world of docs/add-a-source.md.
func acme(t *testing.T, called *[]string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*called = append(*called, r.Method+" "+r.URL.RequestURI())
		switch r.URL.Path {
		case "/rss":
			_, _ = w.Write([]byte(`<rss><channel>` + strings.Repeat(`<item><title>소식</title><link>/news/1</link></item>`, 1) +
				`<item><title>둘째</title><link>/news/2</link></item><item><title>셋째</title><link>/news/3</link></item></channel></rss>`))
		case "/v1/notices":
			if r.Header.Get("Authorization") != "Bearer t0ken" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			page := r.URL.Query().Get("page")
			items := []map[string]any{{"no": "n" + page, "subject": "공지", "body": "글", "published": "2026-11-28 10:00"}}
			if page == "1" {
				items = append(items, map[string]any{"no": "n0", "subject": "첫 공지"})
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"list": items}})
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// TestAddASource does what docs/add-a-source.md says, literally but for addresses and paths: each file that it shows is
// written, and the commands behind it are run.
func TestAddASource(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/add-a-source.md")
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(b), "## In Go")
	var called []string
	world := acme(t, &called)
	dir := t.TempDir()
	script := filepath.Join(dir, "bars")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"{\\\"id\\\":\\\"005930\\\",\\\"text\\\":\\\"bar $2 $ACME_TOKEN\\\"}\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "sources.json")
	s := newRedisStage(t)
	s.env["ACME_TOKEN"], s.env["EMBEDFLEET_ALLOW_PRIVATE"], s.env["PATH"] = "t0ken", "true", os.Getenv("PATH")
	parts := regexp.MustCompile(`(?m)^ {4}(?:(\{"sources": \[(?:\n {4}.*)*\n {4}\]\})|(scheduler .*))$`).FindAllStringSubmatch(text, -1)
	files, commands := 0, 0
	for _, m := range parts {
		if m[1] != "" {
			files++
			content := regexp.MustCompile(`https?://[a-z]+\.acme\.example`).ReplaceAllString(m[1], world.URL)
			content = strings.ReplaceAll(content, "/opt/acme/bars", script)
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		commands++
		args := strings.Fields(strings.ReplaceAll(m[2], "sources.json", file))
		if status, out := s.call(t.Context(), args[1:]...); status != 0 || out == "" {
			t.Errorf("%s: %d %s %s", m[2], status, out, s.errs.String())
		} else if strings.Contains(m[2], "run news") && !strings.Contains(out, `"items":3,"new":3`) {
			t.Errorf("%s: %s", m[2], out)
		}
	}
	if files != 3 || commands != 8 {
		t.Fatalf("%d files and %d commands were found", files, commands)
	}
	if n := s.unfinishedOf("minilm"); n != 3+3+1 {
		t.Errorf("%d tasks are queued, want three of the feed, three of the interface, one of the command", n)
	}
	all := strings.Join(called, "\n")
	if !strings.Contains(all, "POST /close?day=20") || !strings.Contains(all, "/v1/notices?from=20") || strings.Contains(s.errs.String(), "t0ken") {
		t.Errorf("called\n%s\n%s", all, s.errs.String())
	}
}

// unfinishedOf counts tasks of an alias that wait.
func (s *stage) unfinishedOf(alias string) (n int64) {
	s.t.Helper()
	list, err := queue.NewLanes(s.rdb.Client()).Status(s.t.Context(), alias)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range list {
		n += l.Pending + l.Active
	}
	return n
}

// TestNoAliasWhereNothingIsEnqueued: what an operator does in an emergency needs no alias, no key and no file that can be
// read; what does need something says what.
func TestNoAliasWhereNothingIsEnqueued(t *testing.T) {
	t.Parallel()
	s := newRedisStage(t)
	broken := filepath.Join(t.TempDir(), "sources.json")
	if err := os.WriteFile(broken, []byte(`{"sources":[{`), 0o600); err != nil {
		t.Fatal(err)
	}
	other := scheduler.Schedule{Job: "acme", Source: "acme", Cron: []string{"* * * * *"}}
	if err := ledger.New(s.rdb.Client()).Announce(t.Context(), []scheduler.Schedule{other}); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		"pause dart --reason tea", "resume dart", "pause news", "resume news", "pause acme", "resume acme", "status", "status --json", "status --each-feed",
		"runs", "runs acme", "next", "pause dart --sources " + broken, "status --sources " + broken, "runs --sources " + broken,
	} {
		if status, out := s.call(t.Context(), strings.Fields(args)...); status != 0 {
			t.Errorf("%s: %d %s %s", args, status, out, s.errs.String())
		}
	}
	for args, want := range map[string]string{
		"":                                 "--alias: is missing",
		"run dart":                         `job "dart" needs OpenDART's key: --dart-key or $OPENDART_API_KEY`,
		"run news":                         `job "news" needs feeds`,
		"run x":                            "nothing is configured",
		"pause moon":                       `source "moon" is none of acme, dart, naver, news`,
		"runs moon":                        `"moon" is neither a source nor a job: there are acme, dart, naver, news`,
		"backfill dart --from 2021-01-01":  "--dart-key",
		"next --sources /nonexistent.json": "--sources: stat /nonexistent.json",
		"next --feeds /nonexistent.json":   "--feeds: stat /nonexistent.json",
		"next --sources " + broken:         "reading the sources",
		"backfill dart --from 2021-01-01 --to 2021-01-02 --dart-key " + key: "--alias: is missing",
	} {
		before := len(s.errs.String())
		status, _ := s.call(t.Context(), strings.Fields(args)...)
		if said := s.errs.String()[before:]; status != 2 || !strings.Contains(said, want) {
			t.Errorf("%q: %d, %s, want %q", args, status, said, want)
		}
	}
	day := time.Date(2021, 1, 2, 0, 0, 0, 0, scheduler.KST)
	source := ledger.New(s.rdb.Client()).Source("dart", time.Hour)
	if err := source.SetDone(t.Context(), "20210101-20210102", scheduler.Progress{Next: day.AddDate(0, 0, 1), Documents: 7}); err != nil {
		t.Fatal(err)
	}
	if status, out := s.call(t.Context(), "backfill", "dart", "--from", "2021-01-01", "--to", "2021-01-02", "--dart-key", key); status != 0 || !strings.Contains(out, "done, with 7") {
		t.Errorf("a backfill that is done: %d %s", status, out)
	}
}

// TestSourcesChangeWhileTheyRun: a source comes and goes by the file alone, a broken file changes nothing.
func TestSourcesChangeWhileTheyRun(t *testing.T) {
	t.Parallel()
	s := newRedisStage(t)
	var mu sync.Mutex
	calls := map[string]int{}
	world := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls[r.URL.Path]++
	}))
	defer world.Close()
	called := func(path string) int {
		mu.Lock()
		defer mu.Unlock()
		return calls[path]
	}
	file := filepath.Join(t.TempDir(), "sources.json")
	write := func(names ...string) {
		var entries []string
		for _, n := range names {
			entries = append(entries, fmt.Sprintf(`{"name":%q,"kind":"interval","every":"1h","url":"%s/%s","private":true}`, n, world.URL, n))
		}
		draft := file + ".new"
		if err := os.WriteFile(draft, []byte(`{"sources":[`+strings.Join(entries, ",")+`]}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(draft, file); err != nil { // as editors do
			t.Fatal(err)
		}
	}
	write("one")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		status, _ := s.call(ctx, "--alias", "m", "--sources", file)
		done <- status
	}()
	await(t, "the first source", func() bool { return called("/one") == 1 })
	write("one", "two")
	await(t, "the second source", func() bool { return called("/two") == 1 })
	write("one", "t w o")
	await(t, "a complaint", func() bool { return strings.Contains(s.errs.String(), "those before stay in force") })
	write("two")
	l := ledger.New(s.rdb.Client())
	await(t, "the first one's end", func() bool {
		list, err := l.Status(t.Context())
		return err == nil && len(list) == 1 && list[0].Source == "two" && list[0].Jobs[0].Kept
	})
	if called("/one") != 1 || called("/two") != 1 {
		t.Errorf("calls %v: a slot is run once, however the file changes", calls)
	}
	cancel()
	if status := <-done; status != 0 {
		t.Errorf("status %d: %s", status, s.errs.String())
	}
	if status, out := s.call(t.Context(), "runs", "two"); status != 0 || strings.Count(out, "two:") != 1 || !strings.Contains(out, "done") {
		t.Errorf("%d %s", status, out)
	}
}

// TestAFeedLeadsNotInside: an address of the own network is refused, and said so, with no body of it anywhere.
func TestAFeedLeadsNotInside(t *testing.T) {
	t.Parallel()
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`<rss><item><title>AKIA-SECRET-7</title><link>http://a.kr/1</link></item></rss>`))
	}))
	defer inside.Close()
	s := newRedisStage(t)
	file := filepath.Join(t.TempDir(), "sources.json")
	text := fmt.Sprintf(`{"sources":[{"name":"a","kind":"feed","url":%q},{"name":"meta","kind":"feed","url":"http://169.254.169.254/latest/"}]}`, inside.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	status, out := s.call(t.Context(), "run", "news", "--alias", "m", "--sources", file)
	if status == 0 || !strings.Contains(out, `"failed/private_address":2`) {
		t.Errorf("%d %s", status, out)
	}
	status, runs := s.call(t.Context(), "runs", "news", "--failed", "--sources", file)
	if status != 0 || !strings.Contains(runs, "failed/private_address 2") {
		t.Errorf("%d %s", status, runs)
	}
	_, feeds := s.call(t.Context(), "status", "--each-feed", "--sources", file)
	if !strings.Contains(feeds, "an address of the own network") || strings.Contains(feeds+runs+out+s.errs.String(), "AKIA") {
		t.Errorf("%s", feeds)
	}
	if s.unfinishedOf("m") != 0 {
		t.Error("something of it was enqueued")
	}
	if status, out := s.call(t.Context(), "run", "news", "--alias", "m", "--sources", file, "--allow-private"); status != 0 && !strings.Contains(out, `"new":1`) {
		t.Errorf("allowed: %d %s", status, out)
	}
}
