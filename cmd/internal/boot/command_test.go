package boot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
)

func TestRun(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err    error
		args   []string
		status int
		says   string
	}{
		"well":         {nil, nil, 0, ""},
		"failed":       {errors.New("no luck"), nil, 1, "prog: no luck\n"},
		"usage":        {boot.Usagef("--k: no"), nil, boot.StatusUsage, "prog: usage: --k: no\n"},
		"model":        {fmt.Errorf("%w: bad folder", boot.ErrModel), nil, boot.StatusModel, "prog: loading the model: bad folder\n"},
		"reported":     {fmt.Errorf("some failed: %w", boot.ErrReported), nil, 1, ""},
		"unknown flag": {nil, []string{"--nope"}, boot.StatusUsage, "prog: usage: unknown flag: --nope; --help lists the flags\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			cmd := &cobra.Command{Use: "prog", RunE: func(*cobra.Command, []string) error { return tt.err }}
			boot.Root(cmd, &out, &errs)
			if status := boot.Run(t.Context(), cmd, tt.args); status != tt.status || errs.String() != tt.says || out.Len() > 0 {
				t.Errorf("status %d, says %q, prints %q; want %d and %q", status, errs.String(), out.String(), tt.status, tt.says)
			}
		})
	}
}

func TestRunPassesItsContext(t *testing.T) {
	t.Parallel()
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "ours")
	cmd := &cobra.Command{Use: "prog", RunE: func(cmd *cobra.Command, _ []string) error {
		return fmt.Errorf("%v: %w", cmd.Context().Value(key{}), boot.ErrUsage)
	}}
	var errs bytes.Buffer
	boot.Root(cmd, &errs, &errs)
	boot.Run(ctx, cmd, nil)
	if want := "prog: ours: usage\n"; errs.String() != want {
		t.Errorf("says %q, want %q", errs.String(), want)
	}
}
