package wire

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

// Codes are words of a bounded set and causes are short and valid, whatever a handler's error says.
func TestCodesAndCauses(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		"": CodeUnknown, "panic": "panic", "no\nword at all": "no_word_at_all", "\xff": CodeUnknown, strings.Repeat("x", maxCode+1): CodeUnknown,
	} {
		if got := Code(code); got != want {
			t.Errorf("%q is kept as %q, want %q", code, got, want)
		}
	}
	for _, text := range []string{"short", strings.Repeat("한", maxCause), "\xff\xfe"} {
		got := Cause(errors.New(text))
		if !utf8.ValidString(got) || len(got) > maxCause+10 || text == "short" && got != text {
			t.Errorf("%.20q is kept as %.20q, %d bytes", text, got, len(got))
		}
	}
}

// A damaged letter hides neither itself nor the others, and who is forgotten is counted once.
func TestLettersOfALane(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	ctx, k, letters := t.Context(), KeysOf("m", tasks.Live), NewLetters(rdb)
	for id, fields := range map[string][]any{
		"whole":   {"code", "panic", "message", "boom", "first", "1000", "last", "2000", "attempts", "3", "crashes", "1", "worker", "w", "kind", "embed:document"},
		"damaged": {"code", "panic", "first", "x", "attempts", ""},
	} {
		rdb.HSet(ctx, k.Letter(id), fields...)
		rdb.ZAdd(ctx, k.Dead(), redis.Z{Score: 2000, Member: id})
		rdb.HIncrBy(ctx, k.Causes(), "panic", 1)
	}
	list, err := letters.Read(ctx, "m", tasks.Live, []string{"whole", "none", "damaged"})
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	whole, damaged := list[0], list[1]
	if whole.ID != "whole" || whole.Last.UnixMilli() != 2000 || whole.Attempts != 3 || whole.Crashes != 1 || whole.Lane != tasks.Live || whole.Worker != "w" {
		t.Errorf("%+v", whole)
	}
	if damaged.ID != "damaged" || damaged.Code != "panic" || !damaged.First.IsZero() || damaged.Attempts != 0 {
		t.Errorf("%+v", damaged)
	}
	if lanes, err := letters.Lanes(ctx, "m"); err != nil || len(lanes) != 1 || lanes[0] != tasks.Live {
		t.Errorf("lanes with letters: %q, %v", lanes, err)
	}
	for _, want := range []int{2, 0} {
		if n, err := letters.Forget(ctx, k, []string{"whole", "none", "damaged"}); err != nil || n != want {
			t.Errorf("forgot %d, %v, want %d", n, err, want)
		}
	}
	if keys := rdb.Keys(ctx, "*").Val(); len(keys) > 0 {
		t.Errorf("left: %q", keys)
	}
}
