package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want tasks.Outcome
		code string
	}{
		{nil, tasks.Done, "done"},
		{errors.New("x"), tasks.Retry, "retry"},
		{tasks.AsPermanent(errors.New("x")), tasks.Permanent, "permanent"},
		{fmt.Errorf("a: %w", tasks.AsPermanent(context.Canceled)), tasks.Permanent, "permanent"},
		{fmt.Errorf("a: %w", engineError{overloaded: true}), tasks.Overloaded, "overloaded"},
		{errors.Join(errors.New("x"), engineError{permanent: true}), tasks.Permanent, "permanent"},
		{fmt.Errorf("a: %w", context.Canceled), tasks.Cancelled, "cancelled"},
		{context.DeadlineExceeded, tasks.Retry, "retry"},
		{&tasks.VersionError{Version: 2}, tasks.Retry, "unknown_version"},
		{&store.SpaceError{}, tasks.Retry, "wrong_space"},
		{tasks.AsPermanent(&store.SpaceError{}), tasks.Permanent, "wrong_space"},
	} {
		if got := tasks.Classify(tt.err); got != tt.want {
			t.Errorf("Classify(%v) = %s, want %s", tt.err, got, tt.want)
		}
		if got := tasks.Code(tt.err); got != tt.code {
			t.Errorf("Code(%v) = %q, want %q", tt.err, got, tt.code)
		}
	}
	if err := tasks.AsPermanent(nil); err != nil {
		t.Errorf("AsPermanent(nil) = %v", err)
	}
}
