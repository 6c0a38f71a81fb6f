package ledger_test

import (
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

func TestAsked(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	l := ledger.New(rdb)
	take := func(job string) string {
		t.Helper()
		by, ok, err := l.Asked(t.Context(), "dart", job)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return "nobody"
		}
		return by
	}
	if got := take("dart"); got != "nobody" {
		t.Errorf("%s asked before anybody did", got)
	}
	for _, by := range []string{"ann", "bob"} {
		if err := l.Ask(t.Context(), "dart", "dart", by); err != nil {
			t.Fatal(err)
		}
	}
	if got := take("dart-wide"); got != "nobody" {
		t.Errorf("%s asked for another job", got)
	}
	if got := take("dart"); got != "bob" {
		t.Errorf("%s asked, want bob", got)
	}
	if got := take("dart"); got != "nobody" {
		t.Errorf("%s asked twice", got)
	}
	if err := l.Ask(t.Context(), "dart", "dart", "ann"); err != nil {
		t.Fatal(err)
	}
	ttl, err := rdb.TTL(t.Context(), "ef:{crawl:dart}:asked:dart").Result()
	if err != nil || ttl <= 0 || ttl > ledger.AskedFor {
		t.Errorf("the wish stays for %v, %v", ttl, err)
	}
}
