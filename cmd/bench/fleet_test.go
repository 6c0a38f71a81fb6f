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
		{7 * time.Second, 2800, 3000, 250 * time.Millisecond},
		{7 * time.Second, 2901, 3000, 5 * time.Millisecond},
		{time.Second, 0, 50, 5 * time.Millisecond},
	} {
		if got := nextLook(tt.took, tt.done, tt.all); got != tt.want {
			t.Errorf("%d of %d in %v: %v, want %v", tt.done, tt.all, tt.took, got, tt.want)
		}
	}
}
