package coalesce_test

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/internal/coalesce"
)

type item struct {
	n       int
	squared int
}

func TestEveryItemIsRunOnceInBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sizes []int // without a lock: run is never called twice at once, the race detector is the judge
		seen := map[int]int{}
		g := coalesce.New(64, coalesce.Patience{}, func(_ context.Context, items []*item) {
			sizes = append(sizes, len(items))
			for _, it := range items {
				seen[it.n]++
				it.squared = it.n * it.n
			}
			time.Sleep(time.Millisecond)
		})
		var wg sync.WaitGroup
		for n := range 1000 {
			wg.Go(func() {
				it := &item{n: n}
				g.Do(t.Context(), it)
				if it.squared != n*n {
					t.Errorf("item %d came back with %d", n, it.squared)
				}
			})
		}
		wg.Wait()
		for n := range 1000 {
			if seen[n] != 1 {
				t.Errorf("item %d was run %d times", n, seen[n])
			}
		}
		// The first takes whoever has come, the rest gathers meanwhile: full ones, and what is left.
		if len(sizes) > 17 || slices.Max(sizes) != 64 || slices.Min(sizes[1:len(sizes)-1]) != 64 {
			t.Errorf("batches of %v", sizes)
		}
	})
}

// Several items of one caller share batches with each other and with others', in their order, however many they are.
func TestManyItemsOfOneCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var order []int
		var sizes []int
		g := coalesce.New(64, coalesce.Patience{}, func(_ context.Context, items []*item) {
			sizes = append(sizes, len(items))
			for _, it := range items {
				order = append(order, it.n)
				it.squared = it.n * it.n
			}
			time.Sleep(time.Millisecond)
		})
		var wg sync.WaitGroup
		for caller := range 10 {
			wg.Go(func() {
				items := make([]*item, 50*caller) // none, some, and more than a batch takes
				for i := range items {
					items[i] = &item{n: 1000*caller + i}
				}
				g.DoAll(t.Context(), items)
				for _, it := range items {
					if it.squared != it.n*it.n {
						t.Errorf("item %d came back with %d", it.n, it.squared)
					}
				}
			})
		}
		wg.Wait()
		last := map[int]int{}
		for _, n := range order {
			if caller := n / 1000; n%1000 != last[caller] {
				t.Errorf("item %d was run when %d was due", n, last[caller])
			}
			last[n/1000]++
		}
		if len(order) != 50*45 || slices.Max(sizes) != 64 || len(sizes) > 50*45/64+10 {
			t.Errorf("%d items in batches of %v", len(order), sizes)
		}
	})
}

func TestALoneCallIsNotDelayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := coalesce.New(8, coalesce.Patience{}, func(context.Context, []int) {})
		begun := time.Now()
		for range 100 {
			g.Do(t.Context(), 1)
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("100 calls took %v", took)
		}
	})
}

func TestACallersEndIsNotTheOthers(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g := coalesce.New(8, coalesce.Patience{}, func(ctx context.Context, _ []int) {
		if ctx.Err() != nil {
			t.Error("the batch runs under its first caller's end")
		}
	})
	g.Do(ctx, 1)
}

func TestAPanicLeavesNobodyWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first := true
		g := coalesce.New(8, coalesce.Patience{}, func(context.Context, []int) {
			if first {
				first = false
				time.Sleep(time.Second)
				panic("the batch")
			}
		})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				defer func() { _ = recover() }()
				g.Do(t.Context(), 1)
			})
		}
		wg.Wait()
		g.Do(t.Context(), 1)
	})
}

// TestManyWaitForEachOther has pairs of callers come one after the other, a millisecond apart, as the handlers of one batch do
// on busy cores.
func TestManyWaitForEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const linger = 24 * time.Millisecond
		var sizes []int
		g := coalesce.New(8, coalesce.Patience{Linger: linger}, func(_ context.Context, items []int) {
			sizes = append(sizes, len(items))
			time.Sleep(time.Millisecond)
		})
		var wg sync.WaitGroup
		for n := range 40 {
			wg.Go(func() {
				time.Sleep(time.Duration(n/2) * time.Millisecond)
				g.Do(t.Context(), n)
			})
		}
		wg.Wait()
		if len(sizes) > 8 || slices.Max(sizes) != 8 { // without the wait it is a batch a millisecond
			t.Errorf("batches of %v", sizes)
		}
		begun := time.Now()
		g.Do(t.Context(), 1)
		if took := time.Since(begun); took != linger/6+time.Millisecond {
			t.Errorf("shortly after a batch of several a lone call took %v, want %v", took, linger/6+time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		begun = time.Now()
		g.Do(t.Context(), 1)
		if took := time.Since(begun); took != time.Millisecond {
			t.Errorf("a call that is alone again took %v", took)
		}
	})
}

// TestWhereOneRunsAtATimeNobodySleeps has callers woken by one event while goroutines take turns on one thread.
func TestWhereOneRunsAtATimeNobodySleeps(t *testing.T) { //nolint:paralleltest // changes GOMAXPROCS
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		g := coalesce.New(64, coalesce.Patience{Linger: time.Second, Yield: true}, func(_ context.Context, items []int) {
			sizes = append(sizes, len(items))
			time.Sleep(time.Millisecond)
		})
		for range 100 { // a single turn brings all of them more often than not
			event := make(chan struct{})
			var wg sync.WaitGroup
			for n := range 50 {
				wg.Go(func() {
					<-event
					g.Do(t.Context(), n)
				})
			}
			synctest.Wait()
			begun := time.Now()
			close(event)
			wg.Wait()
			if took := time.Since(begun); took > 2*time.Millisecond {
				t.Errorf("50 calls took %v, want no more than two batches", took)
			}
		}
		// The first caller of all does not know yet that it has company.
		if want := append([]int{1, 49}, slices.Repeat([]int{50}, 99)...); !slices.Equal(sizes, want) {
			t.Errorf("batches of %v, want %v", sizes, want)
		}
	})
}
