package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
)

// endError says that nobody wants the task any more.
type endError struct{ expired, revoked bool }

func (endError) Error() string   { return "nobody wants it" }
func (e endError) Expired() bool { return e.expired }
func (e endError) Revoked() bool { return e.revoked }

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
		{fmt.Errorf("a: %w", endError{expired: true}), tasks.Expired, "expired"},
		{errors.Join(tasks.AsPermanent(errors.New("x")), endError{revoked: true}), tasks.Revoked, "revoked"},
		{&tasks.VersionError{Version: 2}, tasks.Newer, "unknown_version"},
		{fmt.Errorf("a: %w", &tasks.VersionError{Version: 2}), tasks.Newer, "unknown_version"},
		{tasks.AsPermanent(&tasks.VersionError{Version: 2}), tasks.Permanent, "unknown_version"}, // the worker has made up its mind
		{errors.Join(&tasks.VersionError{Version: 2}, context.Canceled), tasks.Cancelled, "unknown_version"},
		{errors.Join(&tasks.VersionError{Version: 2}, endError{revoked: true}), tasks.Revoked, "unknown_version"},
		{&tasks.PanicError{Value: "x"}, tasks.Permanent, "panic"},
		{&tasks.ModelError{Task: "a", Worker: "b"}, tasks.Permanent, "wrong_model"},
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
