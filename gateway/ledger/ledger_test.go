package ledger_test

import (
	"errors"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/gateway/batch"
	"github.com/embedfleet/embedfleet/gateway/ledger"
	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// TestTake: a caller's quota is one for all gateways, and a refusal takes nothing.
func TestTake(t *testing.T) {
	t.Parallel()
	rdb := testkit.RedisServer(t).Client()
	one, two := ledger.New(rdb), ledger.New(rdb)
	if time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)) < 5*time.Second {
		time.Sleep(6 * time.Second) // into the next minute, which this test is in then
	}
	q := gateway.Quota{Minute: gateway.Amount{Requests: 3, Tokens: 100}, Day: gateway.Amount{Texts: 5}}
	for _, tt := range []struct {
		l      *ledger.Ledger
		caller string
		a      gateway.Amount
		over   string
	}{
		{one, "a:b", gateway.Amount{Requests: 1, Texts: 2, Tokens: 60}, ""},
		{two, "a:b", gateway.Amount{Requests: 1, Tokens: 60}, "tokens/minute"},
		{two, "a:b", gateway.Amount{Tokens: -40}, ""}, // it was less than estimated
		{two, "a:b", gateway.Amount{Requests: 1, Tokens: 60}, ""},
		{one, "a:b", gateway.Amount{Requests: 1, Texts: 4}, "texts/day"},
		{one, "a:b", gateway.Amount{Requests: 1, Texts: 3}, ""},
		{one, "a:b", gateway.Amount{Requests: 1}, "requests/minute"},
		{one, "other", gateway.Amount{Requests: 1}, ""},
	} {
		over, after, err := tt.l.Take(t.Context(), tt.caller, tt.a, q)
		if over != tt.over || err != nil || after <= 0 || after > 24*time.Hour {
			t.Errorf("%+v: %q after %v, %v, want %q", tt.a, over, after, err, tt.over)
		}
	}
	used, err := one.Used(t.Context())
	if want := (gateway.Amount{Requests: 3, Texts: 5, Tokens: 80}); err != nil || used["a:b"].Minute != want || used["a:b"].Day != want || used["other"].Day.Requests != 1 {
		t.Errorf("%+v, %v", used, err)
	}
}

// TestSteps: a batch moves only from where it may, a lease has one owner, a line one answer.
func TestSteps(t *testing.T) {
	t.Parallel()
	ctx, l := t.Context(), ledger.New(testkit.RedisServer(t).Client())
	b := batch.Batch{ID: "batch_1", Created: time.Now().UTC().Truncate(time.Second), State: batch.State{Status: batch.Validating}}
	if err := l.PutBatch(ctx, b); err != nil {
		t.Fatal(err)
	}
	if active, err := l.Active(ctx); err != nil || len(active) != 1 {
		t.Error(active, err)
	}
	if moved, err := l.Move(ctx, b.ID, batch.Finalizing, batch.State{}, batch.InProgress); moved || err != nil {
		t.Error(moved, err)
	}
	if moved, err := l.Move(ctx, b.ID, batch.InProgress, batch.State{Total: 3}, batch.Validating); !moved || err != nil {
		t.Error(moved, err)
	}
	recordTwice(t, l, b.ID)
	if have, err := l.Have(ctx, b.ID, 0, 4); err != nil || !have[0] || have[1] || !have[2] || have[3] {
		t.Error(have, err)
	}
	if moved, err := l.Move(ctx, b.ID, batch.Completed, batch.State{Output: "file-o"}, batch.InProgress); !moved || err != nil {
		t.Error(moved, err)
	}
	b, err := l.Batch(ctx, b.ID)
	if err != nil || b.Total != 3 || b.Done != 1 || b.Failed != 1 || b.Output != "file-o" || b.Times[batch.Completed].IsZero() {
		t.Errorf("%+v, %v", b, err)
	}
	if active, err := l.Active(ctx); err != nil || len(active) != 0 {
		t.Error(active, err)
	}
}

// TestLease: it has one owner, who may renew it, until it ends.
func TestLease(t *testing.T) {
	t.Parallel()
	ctx, l := t.Context(), ledger.New(testkit.RedisServer(t).Client())
	for _, tt := range []struct {
		owner string
		d     time.Duration
		want  bool
	}{{"a", time.Minute, true}, {"a", time.Minute, true}, {"b", time.Minute, false}, {"a", time.Millisecond, true}} {
		if got, err := l.Lease(ctx, "batch_1", tt.owner, tt.d); got != tt.want || err != nil {
			t.Error(tt.owner, got, err)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got, err := l.Lease(ctx, "batch_1", "b", time.Minute)
		if err != nil || time.Now().After(deadline) {
			t.Fatal(got, err)
		}
		if got {
			return
		}
	}
}

// recordTwice records lines twice, of which the first time counts.
func recordTwice(t *testing.T, l *ledger.Ledger, id string) {
	t.Helper()
	lines := []batch.Line{{Number: 0, Kind: batch.Answers, JSON: []byte("zero")}, {Number: 2, Kind: batch.Errors, JSON: []byte("two")}}
	for range 2 {
		if err := l.Record(t.Context(), id, lines); err != nil {
			t.Fatal(err)
		}
		lines[0].JSON = []byte("again")
	}
	got, err := l.Lines(t.Context(), id, 0, 9)
	if err != nil || len(got) != 2 || string(got[0].JSON) != "zero" || got[1].Kind != batch.Errors || got[1].Number != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestFilesExpire: a file whose upload never ended does not stay, and one that expired is not listed.
func TestFilesExpire(t *testing.T) {
	t.Parallel()
	rdb := testkit.RedisServer(t).Client()
	ctx, l := t.Context(), ledger.New(rdb)
	if err := l.PutPiece(ctx, "file-1", 0, []byte("half")); err != nil {
		t.Fatal(err)
	}
	if ttl, err := rdb.TTL(ctx, "ef:{file:file-1}:pieces").Result(); err != nil || ttl <= 0 {
		t.Error(ttl, err)
	}
	f := batch.File{ID: "file-1", Pieces: 1, Created: time.Now(), Expires: time.Now().Add(300 * time.Millisecond)}
	if err := l.PutFile(ctx, f); err != nil {
		t.Fatal(err)
	}
	if piece, err := l.Piece(ctx, "file-1", 0); err != nil || string(piece) != "half" {
		t.Error(piece, err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		list, err := l.Files(ctx)
		if err != nil || time.Now().After(deadline) {
			t.Fatal(list, err)
		}
		if len(list) == 0 {
			break
		}
	}
	if _, err := l.File(ctx, "file-1"); !errors.Is(err, batch.ErrNotFound) {
		t.Error(err)
	}
}
