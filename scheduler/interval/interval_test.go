package interval

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// A fleet is queue and store.
type fleet struct{ docs []vector.Document }

func (f *fleet) Enqueue(_ context.Context, list []tasks.Task) ([]error, error) {
	for _, t := range list {
		p, err := tasks.DecodeDocument(t.Payload)
		if err != nil {
			return nil, err
		}
		f.docs = append(f.docs, p.Document)
	}
	return make([]error, len(list)), nil
}

func (*fleet) TextHashes(_ context.Context, _ string, ids []string) ([]string, error) {
	return make([]string, len(ids)), nil
}

func runner(t *testing.T, f *fleet, c Config) *Runner {
	t.Helper()
	_, rdb := testkit.MiniRedis(t)
	source := ledger.New(rdb).Source("bars", time.Hour)
	client := &http.Client{}
	t.Cleanup(client.CloseIdleConnections)
	r, err := New(testkit.Logger(t), "bars", c, Parts{
		Outbox: scheduler.Outbox{Log: testkit.Logger(t), Alias: "m", Lane: tasks.Live, Memory: source, Queue: f, Store: f},
		Memory: source, HTTP: client, Agent: "embedfleet/1",
		Getenv: func(name string) (string, bool) {
			v, ok := map[string]string{"PATH": os.Getenv("PATH"), "TOKEN": "t", "SECRET": "s"}[name]
			return v, ok
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var slot = scheduler.Tick{Slot: time.Date(2026, 11, 28, 6, 5, 0, 0, time.UTC), Now: time.Date(2026, 11, 28, 6, 5, 2, 0, time.UTC)}

// TestACommandGivesDocuments: what it writes comes in, under the source's name; a bad line costs itself; the same
// again is nothing, another text an update. It sees the variables that are named and no others.
func TestACommandGivesDocuments(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "bars")
	write := func(text string) {
		if err := os.WriteFile(script, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(`echo '{"id":"005930","text":"삼성전자 '"$1 $TOKEN$SECRET"'"}'; echo '{"id":"x"'; echo '{"id":"bars:000660","text":"SK하이닉스 1분봉","source":"bars"}'`)
	f := &fleet{}
	r := runner(t, f, Config{Command: []string{script, "{slot}"}, Env: []string{"TOKEN"}, Gives: Documents})
	got, err := r.Run(t.Context(), slot)
	if err != nil || got.Items != 3 || got.New != 2 || got.Reasons["dropped/bad_line"] != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if f.docs[0].ID != "bars:005930" || f.docs[0].Text != "삼성전자 2026-11-28T06:05:00Z t" || f.docs[1].ID != "bars:000660" {
		t.Errorf("%+v", f.docs)
	}
	if got, err := r.Run(t.Context(), slot); err != nil || got.New+got.Updated+got.Repeated != 0 {
		t.Errorf("again: %+v, %v", got, err)
	}
	next := slot
	next.Slot = slot.Slot.Add(time.Minute)
	if got, err := r.Run(t.Context(), next); err != nil || got.Updated != 1 {
		t.Errorf("the next slot: %+v, %v", got, err)
	}
}

func TestACommandThatFails(t *testing.T) {
	t.Parallel()
	run := func(ctx context.Context, argv ...string) error {
		r, err := runner(t, &fleet{}, Config{Command: argv}).Run(ctx, slot)
		if (err != nil) != (r.Failed == 1) {
			t.Errorf("%v: %+v, %v", argv, r, err)
		}
		return err
	}
	if err := run(t.Context(), "sh", "-c", "echo first >&2; echo the disk is full >&2; exit 3"); err == nil || !strings.Contains(err.Error(), `exit status 3, it says "the disk is full"`) {
		t.Error(err)
	}
	if err := run(t.Context(), "/nonexistent/program"); err == nil {
		t.Error("a program that is not there is run")
	}
	if err := run(t.Context(), "sh", "-c", "head -c 40000000 /dev/zero"); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
	if err := run(t.Context(), "sh", "-c", "echo hello"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("the slot is over"))
	defer cancel()
	left := filepath.Join(t.TempDir(), "left")
	begin := time.Now()
	err := run(ctx, "sh", "-c", "(sleep 1; touch "+left+") & sleep 60")
	if err == nil || !strings.Contains(err.Error(), "the slot is over") || time.Since(begin) > 20*time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
	time.Sleep(2 * time.Second)
	if _, err := os.Stat(left); err == nil {
		t.Error("what the command started outlived it")
	}
}

func TestACall(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "AKIA-SECRET-7")
			return
		}
		_, _ = io.WriteString(w, `{"id":"1","text":"`+r.Method+" "+r.URL.RawQuery+" "+string(body)+" "+r.Header.Get("X-Key")+`"}`)
	}))
	defer server.Close()
	f := &fleet{}
	c := Config{URL: server.URL + "/bars?at={slot}", Body: "from {from}", Headers: map[string]string{"X-Key": "k"}, Gives: Documents, Window: "1h"}
	tick := slot
	tick.Window = c.LookBack()
	if r, err := runner(t, f, c).Run(t.Context(), tick); err != nil || r.New != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := f.docs[0].Text; got != "POST at=2026-11-28T06:05:00Z from 2026-11-28T05:05:02Z k" {
		t.Errorf("%q", got)
	}
	if _, err := runner(t, f, Config{URL: server.URL + "/no?key=AKIA-SECRET-7"}).Run(t.Context(), slot); err == nil || strings.Contains(err.Error(), "AKIA") || !strings.Contains(err.Error(), "403") {
		t.Error(err)
	}
	server.Close()
	if _, err := runner(t, f, Config{URL: server.URL + "/?key=AKIA-SECRET-7"}).Run(t.Context(), slot); err == nil || strings.Contains(err.Error(), "AKIA") {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{
		{}, {Command: []string{"a"}, URL: "http://a/"}, {Command: []string{""}}, {Command: []string{"a"}, Method: "POST"}, {URL: "file:///etc/passwd"},
		{URL: "http://a/{page}"}, {Command: []string{"a", "{when}"}}, {Command: []string{"a"}, Gives: "vectors"}, {Command: []string{"a"}, Timeout: "soon"},
		{URL: "http://a/", Method: "DELETE"}, {URL: "http://a/", Env: []string{"A"}},
	} {
		if err := c.Check(); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}
