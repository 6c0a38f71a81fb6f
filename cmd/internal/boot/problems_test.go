package boot_test

import (
	"errors"
	"testing"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
)

func TestProblems(t *testing.T) {
	t.Parallel()
	var none, some boot.Problems
	none.Add("model", nil)
	if err := none.Err(nil); err != nil {
		t.Errorf("nothing is wrong, but %v", err)
	}
	some.Add("alias", errors.New("too long"))
	some.Addf("lanes", "%q is named twice", "live")
	want := "usage: --alias: too long\n--lanes: \"live\" is named twice"
	if err := some.Err(nil); !errors.Is(err, boot.ErrUsage) || err.Error() != want {
		t.Errorf("%v, want %q", err, want)
	}
	first := boot.Usagef("--grace: 1ms is too short")
	want = "usage: --grace: 1ms is too short\n--alias: too long\n--lanes: \"live\" is named twice"
	if err := some.Err(first); !errors.Is(err, boot.ErrUsage) || err.Error() != want {
		t.Errorf("%v, want %q", err, want)
	}
	if err := none.Err(first); !errors.Is(err, first) {
		t.Errorf("%v, want %v", err, first)
	}
}
