package onnx

import (
	"testing"
	"time"
)

// TestTimerSlack checks that threads which Go has started have it, as its monitor has.
func TestTimerSlack(t *testing.T) {
	t.Parallel()
	for range 8 { // on threads of Go's choice
		t.Run("", func(t *testing.T) {
			t.Parallel()
			if got := timerSlack(); got != 5*time.Millisecond {
				t.Errorf("timers may be %v late, want 5 ms", got)
			}
			time.Sleep(10 * time.Millisecond)
		})
	}
}
