package intake_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/intake"
)

func sizes(groups [][]intake.Item) string {
	var out []string
	for _, g := range groups {
		out = append(out, fmt.Sprint(len(g)))
	}
	return strings.Join(out, " ")
}

func TestGroupFillsGroups(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var groups [][]intake.Item
		for g := range intake.Group(t.Context(), intake.Read(strings.NewReader("a\nb\nc\nd\ne\n"), intake.Text), 2, time.Second) {
			groups = append(groups, g)
		}
		if got := sizes(groups); got != "2 2 1" {
			t.Errorf("groups of %s", got)
		}
	})
}

// What a slow pipe brings is handed on, not held until the pipe's end.
func TestGroupDoesNotWaitForASlowPipe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		go func() {
			for _, line := range []string{"a\n", "b\n", "c\n"} {
				_, _ = io.WriteString(w, line)
				time.Sleep(time.Minute)
			}
			_ = w.Close()
		}()
		var groups [][]intake.Item
		begun := time.Now()
		for g := range intake.Group(t.Context(), intake.Read(r, intake.Auto), 1000, 100*time.Millisecond) {
			groups = append(groups, g)
			if waited := time.Since(begun) % time.Minute; waited > time.Second {
				t.Errorf("a line came %v after it was written", waited)
			}
		}
		if got := sizes(groups); got != "1 1 1" {
			t.Errorf("groups of %s", got)
		}
	})
}

func TestGroupEndsInTheMiddleOfARead(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	for range intake.Group(ctx, intake.Read(r, intake.Text), 10, time.Hour) {
		t.Error("a group out of nothing")
	}
}
