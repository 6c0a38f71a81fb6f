package main

import (
	"runtime"
	"testing"
	"time"
)

func TestGoThreads(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cores    int
		perToken time.Duration
		device   string
		want     int
	}{
		{1, time.Millisecond, "cpu", 1},
		{2, 150 * time.Microsecond, "cpu", 1}, // MiniLM
		{3, time.Millisecond, "cpu", 1},
		{8, time.Millisecond, "cpu", 4},
		{8, time.Microsecond, "cpu", 8}, // a model of a few thousand parameters
		{8, 0, "cpu", 8},                // nothing is known
		{8, time.Millisecond, "cuda:0", 8},
	} {
		if got := goThreads(tt.cores, tt.perToken, tt.device); got != tt.want {
			t.Errorf("%d cores, %v a token on %s: %d threads, want %d", tt.cores, tt.perToken, tt.device, got, tt.want)
		}
	}
}

// TestLeaveCores is not parallel: it changes the process.
func TestLeaveCores(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	set := func(string) (string, bool) { return "x", true }
	leaveCores(time.Millisecond, "cpu", set)
	if n := runtime.GOMAXPROCS(0); n != 4 {
		t.Errorf("the operator's 4 threads became %d", n)
	}
	for _, set := range []bool{false, true} { // by a compose file's ${GOMAXPROCS:-}
		runtime.GOMAXPROCS(4)
		empty := func(string) (string, bool) { return "", set }
		leaveCores(time.Millisecond, "cpu", empty)
		if n := runtime.GOMAXPROCS(0); n != 2 {
			t.Errorf("%d threads on 4 cores, want 2", n)
		}
	}
}

// TestBallast is not parallel: it looks at the whole heap.
func TestBallast(t *testing.T) {
	grows := func() uint64 { // by how much the heap may, from what lives
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.NextGC - m.HeapAlloc
	}
	var kept [][]byte
	for range 3 { // other tests may have left memory, which Go gives out again and clears
		before, private := grows(), memory().Private
		kept = append(kept, newBallast())
		if after := grows(); after < before+ballastSize*3/4 {
			t.Errorf("the heap may grow by %d bytes, by %d before", after, before)
		}
		more := memory().Private - private
		if more < ballastSize/2 {
			return
		}
		t.Logf("a ballast of %d bytes takes %d", ballastSize, more)
	}
	t.Errorf("%d times in a row memory that nobody touched was taken", len(kept))
}
