package page_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/embedfleet/embedfleet/monitoring/login"
	"github.com/embedfleet/embedfleet/monitoring/page"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

// A line is what waits, as a test sets it. It remembers what it was asked to count.
type line struct {
	mu      sync.Mutex
	n       int
	err     error
	hang    bool // until the page gives up
	filters []queue.Filter
}

func (l *line) CountWaiting(ctx context.Context, _ string, f queue.Filter) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.filters = append(l.filters, f)
	if l.hang {
		<-ctx.Done()
		return l.n, ctx.Err()
	}
	return l.n, l.err
}

// TestWaitingTexts gives each order about what waits: the page before it counts what the order's own filter holds.
func TestWaitingTexts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		address string
		says    []string // on the page before
		counts  queue.Filter
		want    page.Order
	}{
		{"do=cancel-waiting&model=minilm", []string{"Cancel all waiting texts of minilm, lanes live and backfill", "This choice holds 1,234 waiting texts now."},
			queue.Filter{}, page.Order{Do: page.CancelWaiting, Model: "minilm"}},
		{"do=cancel-waiting&model=minilm&lane=query&source=news&id=a%3A7", []string{"Cancel waiting texts of minilm, lane query, source news, document or task a:7"},
			queue.Filter{Lanes: []tasks.Lane{tasks.Query}, Sources: []string{"news"}, IDs: []string{"a:7"}},
			page.Order{Do: page.CancelWaiting, Model: "minilm", Lane: tasks.Query, Source: "news", ID: "a:7"}},
		{"do=move-waiting&model=minilm&to=backfill&source=news", []string{"Move waiting texts of minilm, lane live, source news to lane backfill", "1,234 waiting texts"},
			queue.Filter{Lanes: []tasks.Lane{tasks.Live}, Sources: []string{"news"}}, page.Order{Do: page.MoveWaiting, Model: "minilm", To: tasks.Backfill, Source: "news"}},
		{"do=move-waiting&model=minilm&lane=quarantine&to=live", []string{"Move all waiting texts of minilm, lane quarantine to lane live"},
			queue.Filter{Lanes: []tasks.Lane{tasks.Quarantine}}, page.Order{Do: page.MoveWaiting, Model: "minilm", Lane: tasks.Quarantine, To: tasks.Live}},
		{"do=forget-model&model=minilm", []string{"Forget alias minilm", "The queue holds 1,234 waiting texts and 3 dead letters of it now."},
			queue.Filter{Lanes: tasks.Lanes}, page.Order{Do: page.ForgetModel, Model: "minilm"}},
	} {
		t.Run(tt.address, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, login.Operator, letters{})
			status, html := s.get("/act?" + tt.address)
			for _, want := range tt.says {
				if status != 200 || !strings.Contains(plain(html), want) {
					t.Fatalf("the page before: %d, no %q in %s", status, want, plain(html))
				}
			}
			if got := s.line.filters; len(got) != 1 || !reflect.DeepEqual(got[0], tt.counts) {
				t.Errorf("counted %+v, want %+v", got, tt.counts)
			}
			if status, to, body := s.post("/act?"+tt.address, nil); status != http.StatusSeeOther || to != "/" {
				t.Fatalf("the answer: %d to %q: %s", status, to, plain(body))
			}
			tt.want.By = "local"
			got := s.desk.asked()
			if len(got) != 1 || got[0] != tt.want {
				t.Fatalf("asked %+v, want %+v", got, tt.want)
			}
			if f := got[0].Waiting(); !reflect.DeepEqual(f, tt.counts) {
				t.Errorf("the order is about %+v, counted was %+v", f, tt.counts)
			}
		})
	}
}

// TestWaitingTextsNotToBeHad are choices for which there is no button: they are empty, can't be, or nobody knows.
func TestWaitingTextsNotToBeHad(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		address string
		line    *line
		status  int
		says    string
	}{
		{"do=cancel-waiting&model=minilm&id=nobody", &line{}, 200, "No waiting text fits this choice."},
		{"do=move-waiting&model=minilm&lane=live&to=live", &line{n: 9}, 422, "texts of lane live are there already"},
		{"do=move-waiting&model=minilm&lane=query&to=live", &line{n: 9}, 422, "search texts can&#39;t be moved"},
		{"do=move-waiting&model=minilm&to=express", &line{n: 9}, 422, "is none of live, backfill"},
		{"do=move-waiting&model=minilm&lane=express&to=live", &line{n: 9}, 400, "lane &#34;express&#34; is none of"},
		{"do=cancel-waiting&model=..%2Fx", &line{n: 9}, 400, "The order can&#39;t be given"},
		{"do=forget-model", &line{n: 9}, 400, "The order can&#39;t be given"},
		{"do=cancel-waiting&model=minilm", &line{n: 9, err: errors.New("connection refused")}, 503, "Redis did not answer in time"},
		{"do=forget-model&model=minilm", &line{err: errors.New("connection refused")}, 503, "Redis did not answer in time"},
	} {
		t.Run(tt.address, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, login.Operator, letters{})
			s.line.n, s.line.err = tt.line.n, tt.line.err
			status, html := s.get("/act?" + tt.address)
			if status != tt.status || !strings.Contains(plain(html), tt.says) {
				t.Errorf("%d, want %d; no %q in %s", status, tt.status, tt.says, plain(html))
			}
			if strings.Contains(html, `method="post" action="/act"`) {
				t.Error("the page has a button all the same")
			}
			if tt.status == 400 || tt.status == 422 {
				_, token := s.get("/act?do=resume-lane&model=minilm&lane=live")
				form, err := url.ParseQuery(tt.address)
				if err != nil {
					t.Fatal(err)
				}
				form.Set("csrf", csrf(t, token))
				r, err := s.server.Client().PostForm(s.server.URL+"/act", form)
				if err != nil {
					t.Fatal(err)
				}
				_ = r.Body.Close()
				if r.StatusCode/100 != 4 || len(s.desk.asked()) > 0 {
					t.Errorf("the form sent all the same: %d, asked was %+v", r.StatusCode, s.desk.asked())
				}
			}
		})
	}
}

// csrf is the token of a page's form.
func csrf(t *testing.T, html string) string {
	t.Helper()
	_, rest, found := strings.Cut(html, `name="csrf" value="`)
	token, _, ended := strings.Cut(rest, `"`)
	if !found || !ended {
		t.Fatal("the page has no token")
	}
	return token
}

// TestWaitingTextsTooManyToCount are an order's all the same: it says at least how many.
func TestWaitingTextsTooManyToCount(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Operator, letters{})
	s.line.n, s.line.hang = 50_000, true
	status, html := s.get("/act?do=cancel-waiting&model=minilm&source=news")
	if status != 200 || !strings.Contains(plain(html), "at least 50,000 waiting texts") || !strings.Contains(html, "Cancel texts</button>") {
		t.Errorf("%d: %s", status, plain(html))
	}
}

// TestWaitingTextsAreOffered where something waits, and an alias to be forgotten always.
func TestWaitingTextsAreOffered(t *testing.T) {
	t.Parallel()
	s := newSite(t, login.Operator, letters{})
	offers := func() (list []string) {
		_, html := s.get("/")
		for _, do := range []string{page.MoveWaiting, page.CancelWaiting, page.ForgetModel} {
			if strings.Contains(html, `href="/act?do=`+do+`&amp;model=minilm`) {
				list = append(list, do)
			}
		}
		return list
	}
	if got := offers(); len(got) != 3 {
		t.Errorf("where texts wait, offered are %v", got)
	}
	empty := snapshot()
	for i := range empty.Lanes {
		empty.Lanes[i].Pending, empty.Lanes[i].Retry, empty.Lanes[i].Scheduled = 0, 0, 0
	}
	s.show(empty)
	if got := offers(); !slices.Equal(got, []string{page.ForgetModel}) {
		t.Errorf("where nothing waits, offered are %v", got)
	}
}
