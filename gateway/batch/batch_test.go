package batch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/gateway/batch"
	"github.com/embedfleet/embedfleet/gateway/ledger"
	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// A lane answers tasks at once, unless it is held; "full" and "dead" are texts that it treats so.
type lane struct {
	mu        sync.Mutex
	held      bool
	full      int // refusals left
	answers   map[string]batch.Outcome
	enqueued  map[string]int
	cancelled int
}

func (l *lane) Enqueue(_ context.Context, list []tasks.Task) ([]batch.Receipt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]batch.Receipt, len(list))
	for i, t := range list {
		if l.full > 0 {
			l.full--
			out[i].Full = true
			continue
		}
		l.enqueued[t.ID]++
		text := string(t.Payload)
		switch {
		case text == "dead":
			out[i].Err = errors.New("it is dead")
		case l.held:
		default:
			o := batch.Outcome{Embedding: vector.Embedding{Vector: vector.Vector{float32(len(text))}}}
			if text == "poison" {
				o = batch.Outcome{Err: errors.New("it is poison")}
			}
			l.answers[t.ID] = o
		}
	}
	return out, nil
}

func (l *lane) Cancel(_ context.Context, list []tasks.Task) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancelled += len(list)
	return nil
}

func (l *lane) Collect(_ context.Context, ids []string) (map[string]batch.Outcome, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]batch.Outcome{}
	for _, id := range ids {
		if o, ok := l.answers[id]; ok {
			out[id] = o
		}
	}
	return out, nil
}

// words makes a task of each text of a line's body {"texts": […]}.
type words struct{}

func (words) Interpret(_ string, body []byte) (*batch.Work, *batch.Reply) {
	var q struct{ Texts []string }
	if err := json.Unmarshal(body, &q); err != nil || len(q.Texts) == 0 {
		return nil, &batch.Reply{Status: 400, Body: []byte(`{"error":"no texts"}`)}
	}
	w := &batch.Work{Answer: func(list []vector.Embedding) batch.Reply {
		sum := float32(0)
		for _, e := range list {
			sum += e.Vector[0]
		}
		return batch.Reply{Status: http.StatusOK, Body: fmt.Appendf(nil, `{"sum":%v}`, sum)}
	}}
	for _, text := range q.Texts {
		w.Tasks = append(w.Tasks, tasks.Task{Payload: []byte(text)})
	}
	return w, nil
}

func (words) Refuse(err error) batch.Reply {
	return batch.Reply{Status: 422, Body: fmt.Appendf(nil, `{"error":%q}`, err)}
}

// A stage is a ledger with a desk, a lane and a runner.
type stage struct {
	t      *testing.T
	ledger *ledger.Ledger
	desk   *batch.Desk
	lane   *lane
}

func newStage(t *testing.T) *stage {
	l := ledger.New(testkit.RedisServer(t).Client())
	return &stage{t: t, ledger: l, desk: batch.NewDesk(l), lane: &lane{answers: map[string]batch.Outcome{}, enqueued: map[string]int{}}}
}

func (s *stage) run() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	r := batch.NewRunner(slog.New(slog.DiscardHandler), fmt.Sprint(time.Now().UnixNano()), batch.Parts{Ledger: s.ledger, Interpreter: words{}, Queue: s.lane, Answers: s.lane})
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

func (s *stage) create(lines ...string) batch.Batch {
	s.t.Helper()
	f, err := s.desk.Upload(s.t.Context(), "me", "in.jsonl", time.Time{}, strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := s.desk.Create(s.t.Context(), batch.Batch{Owner: "me", Input: f.ID, Endpoint: "/v1/x", Window: "24h"})
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// until waits for a status.
func (s *stage) until(id string, statuses ...string) batch.Batch {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		b, err := s.desk.Batch(s.t.Context(), "me", id)
		if err != nil {
			s.t.Fatal(err)
		}
		if slices.Contains(statuses, b.Status) {
			return b
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the batch is %+v, want %v", b, statuses)
		}
	}
}

func (s *stage) content(id string) string {
	s.t.Helper()
	f, err := s.desk.File(s.t.Context(), "me", id)
	if err != nil {
		s.t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.desk.Write(s.t.Context(), f, &b); err != nil || int64(b.Len()) != f.Bytes {
		s.t.Errorf("%d bytes of %d, %v", b.Len(), f.Bytes, err)
	}
	return b.String()
}

func line(id, body string) string {
	return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/x","body":%s}`, id, body)
}

// TestBatch: answers and errors in the lines' order, each in its file; a lane without room is waited for.
func TestBatch(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.lane.full = 2
	t.Cleanup(s.run())
	b := s.create(line("a", `{"texts":["x","yy"]}`), "", line("b", `{}`), line("c", `{"texts":["fine","poison"]}`), line("d", `{"texts":["dead"]}`), line("e", `{"texts":["zzz"]}`))
	b = s.until(b.ID, batch.Completed, batch.Failed)
	if b.Total != 5 || b.Done != 2 || b.Failed != 3 {
		t.Fatalf("%+v", b)
	}
	answers, failures := s.content(b.Output), s.content(b.Errors)
	for _, want := range []string{`"custom_id":"a","response":{"status_code":200,`, `"body":{"sum":3}},"error":null}` + "\n", `"custom_id":"e"`} {
		if !strings.Contains(answers, want) {
			t.Errorf("%s\nlacks %s", answers, want)
		}
	}
	for _, want := range []string{`"custom_id":"b","response":{"status_code":400`, `"custom_id":"c","response":{"status_code":422`, "it is poison", "it is dead"} {
		if !strings.Contains(failures, want) {
			t.Errorf("%s\nlacks %s", failures, want)
		}
	}
	if _, err := s.desk.File(t.Context(), "somebody else", b.Output); !errors.Is(err, batch.ErrNotFound) {
		t.Errorf("somebody else's look: %v", err)
	}
	if _, err := s.desk.Batch(t.Context(), "somebody else", b.ID); !errors.Is(err, batch.ErrNotFound) {
		t.Errorf("somebody else's look: %v", err)
	}
	if _, moved, err := s.desk.Cancel(t.Context(), "me", b.ID); moved || err != nil {
		t.Errorf("a batch that is over was cancelled: %v, %v", moved, err)
	}
}

// TestInputsThatAreNone: a file that is no batch fails as a whole, line by line.
func TestInputsThatAreNone(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	t.Cleanup(s.run())
	for want, lines := range map[string][]string{
		"invalid_json_line":          {line("a", `{}`), `{"custom_id":`},
		"duplicate_custom_id":        {line("a", `{}`), line("a", `{}`)},
		"invalid_url":                {strings.ReplaceAll(line("a", `{}`), "/v1/x", "/v1/y")},
		"invalid_method":             {strings.ReplaceAll(line("a", `{}`), "POST", "GET")},
		"missing_required_parameter": {line("", `{}`), line("a", `5`)},
		"empty_file":                 {"", " "},
		"line_too_long":              {line("a", `{"texts":["`+strings.Repeat("x", batch.MaxLineBytes)+`"]}`)},
	} {
		b := s.until(s.create(lines...).ID, batch.Failed, batch.Completed)
		if b.Status != batch.Failed || len(b.Faults) == 0 || b.Faults[0].Code != want {
			t.Errorf("%s: %s %+v", want, b.Status, b.Faults)
		}
	}
	if _, err := s.desk.Create(t.Context(), batch.Batch{Owner: "me", Input: "file-none"}); !errors.Is(err, batch.ErrNotFound) {
		t.Errorf("a batch of no file: %v", err)
	}
}

// TestCancel: lines that have an answer keep it, tasks that nobody wants any more are ended.
func TestCancel(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	t.Cleanup(s.run())
	var lines []string
	lines = append(lines, line("first", `{}`))
	for i := range 600 {
		lines = append(lines, line(fmt.Sprint(i), `{"texts":["x"]}`))
	}
	s.lane.held = true
	b := s.create(lines...)
	for s.until(b.ID, batch.InProgress).Failed == 0 {
		time.Sleep(20 * time.Millisecond)
	}
	if _, moved, err := s.desk.Cancel(t.Context(), "me", b.ID); !moved || err != nil {
		t.Fatal(moved, err)
	}
	b = s.until(b.ID, batch.Cancelled)
	if b.Errors == "" || b.Output != "" || b.Done != 0 {
		t.Errorf("%+v", b)
	}
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	if s.lane.cancelled == 0 || s.lane.cancelled > 512 {
		t.Errorf("%d tasks were cancelled, want those of the window", s.lane.cancelled)
	}
}

// TestExpiry: what was not done in time is an error of its line.
func TestExpiry(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.lane.held = true
	f, err := s.desk.Upload(t.Context(), "me", "in", time.Time{}, strings.NewReader(line("a", `{}`)+"\n"+line("b", `{"texts":["x"]}`)))
	if err != nil {
		t.Fatal(err)
	}
	b := batch.Batch{ID: "batch_x", Owner: "me", Input: f.ID, Endpoint: "/v1/x", Created: time.Now(), Expires: time.Now().Add(3 * time.Second), State: batch.State{Status: batch.Validating}}
	if err := s.ledger.PutBatch(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.run())
	b = s.until(b.ID, batch.Expired)
	if got := s.content(b.Errors); !strings.Contains(got, `"custom_id":"b","response":null,"error":{"code":"batch_expired"`) || !strings.Contains(got, `"custom_id":"a","response":{"status_code":400`) {
		t.Errorf("%s", got)
	}
}

// TestTakingOver: who takes a batch over begins where the other one ended, and no line is answered twice.
func TestTakingOver(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	var lines []string
	for i := range 3000 {
		lines = append(lines, line(fmt.Sprint(i), fmt.Sprintf(`{"texts":["text %d"]}`, i)))
	}
	b := s.create(lines...)
	stops := []func(){s.run(), s.run()}
	for round := range 4 {
		for s.until(b.ID, batch.Validating, batch.InProgress, batch.Finalizing, batch.Completed).Done < (round+1)*500 {
			time.Sleep(5 * time.Millisecond)
		}
		stops[round%2]()
		stops[round%2] = s.run()
	}
	b = s.until(b.ID, batch.Completed)
	for _, stop := range stops {
		stop()
	}
	if b.Done != 3000 || strings.Count(s.content(b.Output), "\n") != 3000 {
		t.Errorf("%+v", b)
	}
}
