package main

import (
	"testing"
	"time"
)

func TestNextLook(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		took      time.Duration
		done, all int64
		want      time.Duration
	}{
		{time.Second, 0, 3000, 100 * time.Millisecond},
		{100 * time.Millisecond, 2, 3000, 100 * time.Millisecond},
		{time.Second, 500, 3000, time.Second},
		{6 * time.Second, 2400, 3000, 750 * time.Millisecond},
		{7 * time.Second, 2701, 3000, 10 * time.Millisecond},
		{7 * time.Second, 2999, 3000, 10 * time.Millisecond},
		{10 * time.Minute, 2999, 3000, 100 * time.Millisecond},
		{time.Second, 0, 50, 5 * time.Millisecond},
	} {
		if got := nextLook(tt.took, tt.done, tt.all); got != tt.want {
			t.Errorf("%d of %d in %v: %v, want %v", tt.done, tt.all, tt.took, got, tt.want)
		}
	}
}
