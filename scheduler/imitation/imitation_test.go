package imitation_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/imitation"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const testKey = "0123456789012345678901234567890123456789"

type uncounted struct{}

func (uncounted) Take(context.Context, string, string, int) (int, error) { return 1, nil }
func (uncounted) Block(context.Context, string, string) error            { return nil }

// TestRSAOnlyServer: Go's default client is refused, the client for OpenDART is not, and it still verifies.
func TestRSAOnlyServer(t *testing.T) {
	t.Parallel()
	config, roots, err := imitation.RSAOnly()
	if err != nil {
		t.Fatal(err)
	}
	day := time.Date(2026, 11, 20, 20, 0, 0, 0, scheduler.KST)
	rows, err := imitation.RealDay(day)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(imitation.NewDART(rows, &imitation.Options{Key: testKey, Now: func() time.Time { return day }}))
	server.TLS = config
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.Listener.Close()
	if server.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	server.StartTLS()
	defer server.Close()

	client := func(tr *http.Transport) *dart.Client {
		t.Cleanup(tr.CloseIdleConnections)
		return dart.NewClient(testKey, uncounted{}, &dart.ClientOptions{BaseURL: server.URL + "/api", HTTP: &http.Client{Transport: tr}, Now: func() time.Time { return day }})
	}
	c := client(dart.NewTransport(roots))
	page, err := c.List(t.Context(), dart.Query{From: day, To: day, Page: 2})
	if err != nil || page.Total != 475 || page.Pages != 5 || len(page.Filings) != 100 {
		t.Fatalf("page 2 has %d filings of %d, %v", len(page.Filings), page.Total, err)
	}
	text, err := c.Document(t.Context(), page.Filings[0].Receipt, 1000)
	if err != nil || !strings.Contains(text, page.Filings[0].CorpName) {
		t.Errorf("document %q, %v", text, err)
	}
	n := 0
	if err := c.Companies(t.Context(), func(dart.Company) error { n++; return nil }); err != nil || n < 100 {
		t.Errorf("%d listed companies, %v", n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // one try is enough
	defer cancel()
	plain := http.DefaultTransport.(*http.Transport).Clone()
	plain.TLSClientConfig.RootCAs = roots
	if _, err := client(plain).List(ctx, dart.Query{From: day, To: day}); err == nil || !strings.Contains(err.Error(), "handshake failure") {
		t.Errorf("the default transport: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := client(dart.NewTransport(nil)).List(ctx, dart.Query{From: day, To: day}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the roots: %v", err)
	}
}

func TestRealDay(t *testing.T) {
	t.Parallel()
	rows, err := imitation.RealDay(time.Date(2022, 1, 3, 12, 0, 0, 0, scheduler.KST))
	if err != nil || len(rows) != 502 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	late := 0
	for _, f := range rows {
		if f.RceptDt != "20220103" {
			late++
		}
	}
	if late != 27 || rows[0].At.Format("15:04") != "18:58" {
		t.Errorf("%d late publications, want 27; the newest is of %v", late, rows[0].At)
	}
}
