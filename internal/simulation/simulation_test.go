package simulation

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

var (
	seeds = flag.Uint64("seeds", 0, "how many worlds TestSeeds lives through; 0 is a few")
	first = flag.Uint64("first", 1, "the first of them")
	logs  = flag.Bool("logs", false, "print what the fleet logs")
	limit = flag.Duration("for", 0, "begin no more worlds after this time; 0 is no limit")
)

func TestMain(m *testing.M) {
	redis.SetLogger(silence{}) // of a Redis that is away go-redis says the same a thousand times
	testkit.VerifyMain(m)
}

// silence is a logger of go-redis's.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// TestSeeds lives through one world for each seed, on as many processors as there are.
func TestSeeds(t *testing.T) {
	t.Parallel()
	count := *seeds
	switch {
	case count > 0:
	case testing.Short():
		count = 10
	default:
		count = 60
	}
	var next, lived atomic.Uint64
	next.Store(*first - 1)
	begun := time.Now()
	t.Cleanup(func() {
		if n := lived.Load(); n < count {
			t.Logf("%d of %d worlds; the others are left out after %v", n, count, time.Since(begun).Round(time.Second))
		}
	})
	for range runtime.GOMAXPROCS(0) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for seed := next.Add(1); seed < *first+count && !t.Failed(); seed = next.Add(1) {
				if *limit > 0 && time.Since(begun) > *limit {
					return
				}
				lived.Add(1)
				if o := run(t, newPlan(seed)); o.failed("") {
					t.Error(explain(t, o))
				}
			}
		})
	}
}

// explain looks for the shortest history that shows what a run broke, and tells it.
func explain(t *testing.T, o outcome) string {
	whole := len(o.plan.Faults) + len(o.plan.Texts)
	o = shrink(t, o)
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d (go test ./internal/simulation -run TestSeeds -args -first %[1]d -seeds 1)\n", o.plan.Seed)
	for _, v := range o.violations {
		fmt.Fprintf(&b, "BROKEN %v\n", v)
	}
	fmt.Fprintf(&b, "left of %d texts and faults:\n", whole)
	for _, x := range o.plan.Texts {
		fmt.Fprintf(&b, "  text %q at %v\n", x.Text, x.At)
	}
	for _, f := range o.plan.Faults {
		fmt.Fprintf(&b, "  fault %v\n", f)
	}
	for _, l := range o.history {
		fmt.Fprintln(&b, l)
	}
	return b.String()
}

// shrink leaves faults and texts out one by one, as long as the same invariant is broken.
func shrink(t *testing.T, o outcome) outcome {
	broken := o.violations[0].Invariant
	try := func(p plan) bool {
		if len(p.Texts) == 0 {
			return false
		}
		less := run(t, p)
		if less.failed(broken) {
			o = less
		}
		return less.failed(broken)
	}
	for i := 0; i < len(o.plan.Faults); {
		p := o.plan
		p.Faults = slices.Delete(slices.Clone(p.Faults), i, i+1)
		if !try(p) {
			i++
		}
	}
	for i := 0; i < len(o.plan.Texts); {
		p := o.plan
		p.Texts = slices.Delete(slices.Clone(p.Texts), i, i+1)
		if !try(p) {
			i++
		}
	}
	return o
}

// TestSameSeedSameHistory compares whole histories, instants included. It needs one processor: with more, Go may
// run the goroutines that one reply wakes in another order. With one, chance is left in how long a client waits
// before it tries a Redis that is away, how long a scheduler does before it claims a slot again, and how long a
// server takes to stop; so these plans have none of the three. And where the operating system interrupts the test,
// Go goes on with another goroutine: one run in twelve or so differs in a step, hence the further tries.
func TestSameSeedSameHistory(t *testing.T) {
	if raced {
		t.Skip("the race detector shuffles goroutines on purpose: scripts/test.sh runs this without")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	left := func(f fault) bool {
		return f.Kind == away || f.Kind == demoted || f.Kind == retired || slices.Contains([]string{opClaim, opRenewSlot, opFinish, opMark}, f.Op)
	}
	count := 10
	if testing.Short() {
		count = 3
	}
	compared, hashes := 0, map[uint64]bool{}
	for seed := *first; compared < count; seed++ {
		p := newPlan(seed)
		if slices.ContainsFunc(p.Faults, left) {
			continue
		}
		compared++
		a, b := run(t, p), run(t, p)
		for tries := 0; a.hash != b.hash && tries < 4; tries++ {
			t.Logf("seed %d: two histories\n%s", seed, difference(a.history, b.history))
			a, b = b, run(t, p)
		}
		if a.hash != b.hash {
			t.Errorf("seed %d has another history each time", seed)
		}
		hashes[b.hash] = true
	}
	if len(hashes) != compared {
		t.Errorf("%d plans had %d histories", compared, len(hashes))
	}
}

func difference(a, b []line) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("%v\n%v", a[i], b[i])
		}
	}
	return "one ends earlier"
}
