package main

import (
	"runtime"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
)

// slowToken is what a token costs one thread at least where a model leaves little to do for Go: what surrounds a text
// of 32 tokens, from Redis and back, costs about 0.2 ms.
const slowToken = 30 * time.Microsecond

// leaveCores has Go's runtime take less of the cores that the model computes on, which is worth 1 % of a fleet's rate with
// MiniLM on two cores (docs/decisions/0007). What the operator has set by Go's own variable stays.
func leaveCores(perToken time.Duration, device string, getenv boot.Getenv) {
	if set, _ := getenv("GOMAXPROCS"); set == "" {
		runtime.GOMAXPROCS(goThreads(runtime.GOMAXPROCS(0), perToken, device))
	}
}

const ballastSize = 16 << 20

// newBallast returns memory that nobody touches, and that therefore takes none. To the collector, which runs when the heap
// has doubled, it counts like any other as long as it is kept. A worker with short texts in hand lives on 5 MB, and the
// collector would run after every 5 MB more; each time it reads the stacks of a thousand goroutines, which takes 4 ms of a core.
// With long texts in hand, or another GOGC, what a heap may grow by is hardly more than without.
//
// It must come before there is a heap, for memory that was used before has to be cleared, and so would be touched.
func newBallast() []byte { return make([]byte, ballastSize) }

// goThreads returns how many threads may run Go code at once (GOMAXPROCS) in a worker on so many cores. The runners
// compute on all of them in native calls, which do not count. With half as many, Go less often wakes a thread that would
// only take a core from the model. Where the model is so small that Go's own work matters, or computes elsewhere, or
// nothing is known, all are used.
func goThreads(cores int, perToken time.Duration, device string) int {
	if device != "cpu" || perToken < slowToken {
		return cores
	}
	return max(1, cores/2)
}
