package wire

import (
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// Runs of a script go out together, also to a server that has never seen it, and one that fails is alone with that.
func TestRunAll(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	s := NewScript(`if ARGV[1] == 'bad' then return redis.error_reply('BAD one') end return redis.call('INCRBY', KEYS[1], ARGV[1])`)
	for round := range 2 {
		calls := []*Call{
			{Keys: []string{"n"}, Args: []any{1}}, {Keys: []string{"n"}, Args: []any{"bad"}}, {Keys: []string{"n"}, Args: []any{2}},
		}
		if err := s.RunAll(t.Context(), rdb, calls); err != nil {
			t.Fatal(err)
		}
		if err := calls[1].Cmd.Err(); err == nil || err.Error() != "BAD one" {
			t.Errorf("round %d: %v", round, err)
		}
		if n, err := calls[2].Cmd.Int(); err != nil || n != 3 {
			t.Errorf("round %d: the third run says %d, %v", round, n, err)
		}
		rdb.FlushAll(t.Context())
		rdb.ScriptFlush(t.Context())
	}
	_ = rdb.Close()
	if err := s.RunAll(t.Context(), rdb, []*Call{{Keys: []string{"n"}, Args: []any{1}}}); err == nil {
		t.Error("without a connection nothing is said")
	}
	if err := s.RunAll(t.Context(), rdb, nil); err != nil {
		t.Errorf("nothing to do: %v", err)
	}
}
