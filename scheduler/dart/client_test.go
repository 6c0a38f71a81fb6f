package dart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const secret Key = "k/3y+0123456789abcdef0123456789abcdefABC"

// A quotaMap is a quota in memory.
type quotaMap struct {
	mu sync.Mutex
	n  map[string]int
}

func (q *quotaMap) Take(_ context.Context, who, day string, n int) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == nil {
		q.n = map[string]int{}
	}
	q.n[who+day] += n
	return q.n[who+day], nil
}

func (q *quotaMap) Block(ctx context.Context, who, day string) error {
	_, err := q.Take(ctx, who, day, 1<<40)
	return err
}

// A tripper answers without a network.
type tripper func(*http.Request) (int, []byte, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) {
	code, body, err := f(r)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

func clientOf(f tripper, q Quota) *Client {
	return NewClient(secret, q, &ClientOptions{HTTP: &http.Client{Transport: f}, BaseURL: "http://dart.invalid/api"})
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEveryStatus has a case for each row of the guide's table, from a recorded form of its body.
func TestEveryStatus(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		file   string
		action Action
		calls  int  // made, of one List
		pauses bool // the source
		ends   bool // the pause ends at midnight
	}{
		{"dart_err_010.json", StopSource, 1, true, false},
		{"dart_err_011.json", StopSource, 1, true, false},
		{"dart_err_012.json", StopSource, 1, true, false},
		{"dart_err_013.json", Empty, 1, false, false},
		{"dart_err_013.xml", Empty, 1, false, false},
		{"dart_err_014.json", Missing, 1, false, false},
		{"dart_err_020.json", StopKey, 1, true, true},
		{"dart_err_021.json", BadRequest, 1, false, false},
		{"dart_err_100.json", BadRequest, 1, false, false},
		{"dart_err_101.json", BadRequest, 1, false, false},
		{"dart_err_800.json", NextTick, 1, false, false},
		{"dart_err_900.json", TryAgain, callTries, false, false},
		{"dart_err_901.json", StopSource, 1, true, false},
	} {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				c := clientOf(func(*http.Request) (int, []byte, error) { calls++; return 200, fixture(t, tt.file), nil }, &quotaMap{})
				page, err := c.List(t.Context(), Query{From: time.Now(), To: time.Now()})
				if tt.action == Empty {
					if err != nil || len(page.Filings) != 0 || page.Pages != 0 {
						t.Errorf("%+v, %v, want an empty page and no error", page, err)
					}
				} else if err == nil {
					t.Error("no error")
				}
				var status *StatusError
				if errors.As(err, &status) && status.Status.Action() != tt.action {
					t.Errorf("action %q, want %q", status.Status.Action(), tt.action)
				}
				if calls != tt.calls {
					t.Errorf("%d calls, want %d", calls, tt.calls)
				}
				var pause *scheduler.PauseError
				if errors.As(Pausing(err), &pause) != tt.pauses {
					t.Errorf("%v pauses: %t, want %t", err, !tt.pauses, tt.pauses)
				}
				if pause != nil && !pause.Until.IsZero() != tt.ends {
					t.Errorf("pause until %v", pause.Until)
				}
			})
		})
	}
	if Status("777").Action() != TryAgain || OK.Action() != GoOn {
		t.Error("an unknown status is treated as an undefined error, 000 as success")
	}
}

// TestOverQuotaStopsTheKeyUntilTheNextKoreanDay also for other clients with the key.
func TestOverQuotaStopsTheKeyUntilTheNextKoreanDay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // it is 09:00 in Korea
		calls, over := 0, true
		quota := &quotaMap{}
		answer := tripper(func(*http.Request) (int, []byte, error) {
			calls++
			if over {
				return 200, fixture(t, "dart_err_020.json"), nil
			}
			return 200, fixture(t, "dart_err_013.json"), nil
		})
		a, b := clientOf(answer, quota), clientOf(answer, quota)
		for _, c := range []*Client{a, a, b} {
			_, err := c.List(t.Context(), Query{})
			var e *QuotaError
			if !errors.As(err, &e) || e.Until.In(scheduler.KST).Format("01-02 15:04") != "01-02 00:00" || e.Made != 0 {
				t.Errorf("%v (%+v)", err, e)
			}
		}
		if calls != 1 {
			t.Errorf("%d calls, want none after the first", calls)
		}
		over = false
		time.Sleep(15 * time.Hour)
		if _, err := b.List(t.Context(), Query{}); err != nil || calls != 2 {
			t.Errorf("on the next day: %v, %d calls", err, calls)
		}
	})
}

func TestOwnLimit(t *testing.T) {
	t.Parallel()
	calls := 0
	c := NewClient(secret, &quotaMap{}, &ClientOptions{Limit: 2, HTTP: &http.Client{Transport: tripper(
		func(*http.Request) (int, []byte, error) { calls++; return 200, fixture(t, "dart_err_013.json"), nil })}})
	var err error
	for range 4 {
		_, err = c.List(t.Context(), Query{})
	}
	var e *QuotaError
	if !errors.As(err, &e) || e.Limit != 2 || calls != 2 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestTrailingSpaces(t *testing.T) {
	t.Parallel()
	c := clientOf(func(r *http.Request) (int, []byte, error) {
		q := r.URL.Query()
		if q.Get("page_count") != "100" || q.Get("last_reprt_at") != "N" || q.Get("bgn_de") != "20240129" || q.Get("end_de") != "20240201" {
			t.Errorf("query %v", q)
		}
		return 200, fixture(t, "dart_list_trailing_space.json"), nil
	}, &quotaMap{})
	// 16:00 UTC on 31 January is 1 February in Korea.
	to := time.Date(2024, 1, 31, 16, 0, 0, 0, time.UTC)
	page, err := c.List(t.Context(), Query{From: to.Add(-72 * time.Hour), To: to})
	if err != nil || len(page.Filings) != 3 || page.Total != 3 || page.Pages != 1 {
		t.Fatalf("%+v, %v", page, err)
	}
	f := page.Filings
	if f[0].Report != "수시공시의무관련사항(공정공시)" || f[2].StockCode != "" || f[1].Remark != "연정" {
		t.Errorf("%+v", f)
	}
	if name, marks := f[1].Split(); name != "사업보고서 (2023.12)" || len(marks) != 1 {
		t.Errorf("Split = %q, %q", name, marks)
	}
	d := f[1].Document(to)
	if d.ID != "dart:20240131000327" || d.Text != "가상전자 [기재정정]사업보고서 (2023.12)" || d.Fields["correction"] != "기재정정" ||
		d.StockCodes[0] != "000001" || d.Fields["published_from"] != "rcept_dt" || !d.PublishedAt.Equal(time.Date(2024, 1, 30, 15, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", d)
	}
	if d := f[1].Document(to.Add(-2 * time.Hour)); d.Fields["published_from"] != "first_seen" || !d.PublishedAt.Equal(to.Add(-2*time.Hour)) {
		t.Errorf("seen on its day: %+v", d)
	}
}

func TestSamsung(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(testkit.Shared(t, "data", "dart", "list_samsung.json"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := parsePage(b)
	if err != nil || len(page.Filings) == 0 || page.Bad != 0 {
		t.Fatalf("%d filings, %d bad, %v", len(page.Filings), page.Bad, err)
	}
	for _, f := range page.Filings {
		if f.StockCode != "005930" || f.Report != strings.TrimSpace(f.Report) {
			t.Errorf("%+v", f)
		}
	}
}

// TestOddAnswers: what is no answer of the service is worth another try, and nothing of it is repeated.
func TestOddAnswers(t *testing.T) {
	t.Parallel()
	echo := fmt.Sprintf(`<html>you asked for key=%s</html>`, string(secret))
	for name, tt := range map[string]struct {
		code int
		body string
		want string
	}{
		"dart_maintenance.html":  {200, string(fixture(t, "dart_maintenance.html")), "neither JSON"},
		"server error":           {502, "bad gateway", "HTTP 502"},
		"half a body":            {200, `{"status":"000","li`, "19 bytes that are no data"},
		"no status":              {200, `{}`, "three digits"},
		"a strange status":       {200, `{"status":"` + string(secret) + `"}`, "three digits"},
		"a list of wrong shape":  {200, `{"status":"000","list":{}}`, "reading a page"},
		"empty":                  {200, "", "neither JSON"},
		"echo of the key":        {200, echo, "71 bytes that are no data"},
		"redirect to elsewhere":  {302, "", "HTTP 302"},
		"beyond the bound":       {200, strings.Repeat(" ", maxList+1), "longer than"},
		"not an archive, a page": {200, "PK but no archive", "neither JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				c := clientOf(func(*http.Request) (int, []byte, error) { calls++; return tt.code, []byte(tt.body), nil }, &quotaMap{})
				_, err := c.List(t.Context(), Query{})
				if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), string(secret)) || strings.Contains(err.Error(), "<") {
					t.Errorf("%v, want %q", err, tt.want)
				}
				if want := callTries; calls != want && name != "a list of wrong shape" {
					t.Errorf("%d calls, want %d", calls, want)
				}
			})
		})
	}
}

// TestTheKeyStaysSecret looks for the key, as it is and encoded, in errors of every layer and in logs.
func TestTheKeyStaysSecret(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewJSONHandler(&out, nil))
		for _, fault := range []error{
			errors.New("dial tcp: refused"), context.DeadlineExceeded,
			fmt.Errorf("proxy says: GET http://x/?crtfc_key=%s", string(secret)),
			errors.New("http://x/?crtfc_key=k%2F3y%2B0123456789abcdef0123456789abcdefABC"),
		} {
			c := clientOf(func(*http.Request) (int, []byte, error) { return 0, nil, fault }, &quotaMap{})
			_, err := c.List(t.Context(), Query{})
			for e := err; e != nil; e = errors.Unwrap(e) {
				fmt.Fprintf(&out, "%v %+v %#v\n", e, e, e)
			}
			log.Info("x", "err", err, "key", secret, "in", struct{ K Key }{secret})
		}
		c := NewClient(secret, &quotaMap{}, &ClientOptions{BaseURL: "http://%zz", HTTP: &http.Client{}})
		_, err := c.List(t.Context(), Query{})
		fmt.Fprintf(&out, "%v %v %s %#v %+v\n", err, secret, secret, secret, struct{ K Key }{secret})
		for _, form := range []string{"k/3y", "k%2F3y", "0123456789abcdef"} {
			if strings.Contains(out.String(), form) {
				t.Errorf("%q is in\n%s", form, out.String())
			}
		}
		if n := secret.Name(); len(n) != 8 || n == Key("other").Name() {
			t.Errorf("Name = %s", n)
		}
	})
}

func TestFilter(t *testing.T) {
	t.Parallel()
	listed := Filing{CorpCode: "00126380", StockCode: "0068Y0", Class: "Y"}
	other := Filing{CorpCode: "00999991", Class: "E"}
	for name, tt := range map[string]struct {
		w             Filter
		listed, other bool
	}{
		"all":             {Filter{}, true, true},
		"listed only":     {Filter{ListedOnly: true}, true, false},
		"by class":        {Filter{Classes: "YK"}, true, false},
		"by stock code":   {Filter{Companies: []string{"0068Y0"}}, true, false},
		"by company code": {Filter{Companies: []string{"00999991"}}, false, true},
	} {
		if tt.w.Wants(listed) != tt.listed || tt.w.Wants(other) != tt.other {
			t.Errorf("%s: listed %t, other %t", name, tt.w.Wants(listed), tt.w.Wants(other))
		}
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	for report, want := range map[string]string{
		"[기재정정]현금ㆍ현물배당결정":     "현금ㆍ현물배당결정 [기재정정]",
		"[첨부정정] [기재정정]사업보고서":  "사업보고서 [첨부정정 기재정정]",
		"[발행조건확정]증권신고서(지분증권)": "증권신고서(지분증권) [발행조건확정]",
		"[무슨뜻]공시":             "[무슨뜻]공시 []",
		"[기재정정":               "[기재정정 []",
		"수시공시의무관련사항(공정공시)":    "수시공시의무관련사항(공정공시) []",
	} {
		name, marks := Filing{Report: report}.Split()
		if got := fmt.Sprint(name, " ", marks); got != want {
			t.Errorf("%s: %s, want %s", report, got, want)
		}
	}
}

func FuzzPage(f *testing.F) {
	f.Add(fixture(f, "dart_list_trailing_space.json"))
	f.Add([]byte(`{"list":[{"rcept_no":"20240131000327","report_nm":"\u0000"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		page, err := parsePage(b)
		if err != nil {
			return
		}
		for _, filing := range page.Filings {
			if !isReceipt(filing.Receipt) || filing.Report == "" {
				t.Errorf("%+v", filing)
			}
			filing.Document(time.Unix(0, 0))
		}
	})
}
