package consumer

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
)

const (
	// callsTTL is how long the calls of a worker are remembered after it last began one. A crash must be
	// noticed within it.
	callsTTL = time.Hour
	// markWait is when marking is not tried again. It is one round trip, for which a core idles; if Redis is
	// there but does not answer, the client's own timeout ends the first try.
	markWait = 250 * time.Millisecond
	// markRest is how long nothing is marked after that failed: batches would wait for a Redis that is away,
	// and the log would fill.
	markRest = 10 * time.Second
	// unmarkWait is how long the marks of a call may outlive it: a runner that is busy begins its next call at once,
	// and overwrites them. A crash in this moment charges a task once that is innocent, and that is no verdict.
	unmarkWait = 5 * time.Millisecond
)

// InFlight is crash attribution: it marks in Redis which tasks are inside a native call of this worker. If the process
// dies, those are charged with a crash and nobody else: the hundreds of others it had in hand are innocent. The same
// calls drive the clocks of the tasks' deadlines. Without its marks a batch runs all the same.
type InFlight struct {
	log    *slog.Logger
	rdb    redis.UniversalClient
	worker string
	ends   sync.WaitGroup // the writes that take marks back

	mu     sync.Mutex
	number int       // of the newest field
	ended  []string  // fields of calls that have ended, and nobody has deleted or taken over
	rests  time.Time // until then nothing is marked
}

// NewInFlight returns the marks of a worker, whose id must be the one it announces in the registry.
func NewInFlight(log *slog.Logger, rdb redis.UniversalClient, worker string) *InFlight {
	return &InFlight{log: log, rdb: rdb, worker: worker}
}

// Mark says that a native call begins with texts of these callers, and returns what is to be called when it has
// returned, which takes no time. Callers that are no tasks of a consumer are passed over. It is an OnCall of the
// embedder's engine.
func (f *InFlight) Mark(callers []context.Context) (unmark func()) {
	var runs []*run
	var names []string
	for _, ctx := range callers {
		if r := runOf(ctx); r != nil {
			runs = append(runs, r)
			names = append(names, wire.TaskName(r.task.Model, r.task.Lane, r.task.ID))
		}
	}
	if len(runs) == 0 {
		return func() {}
	}
	field := f.write(names)
	for _, r := range runs {
		r.clock.enter()
	}
	return func() {
		for _, r := range runs {
			r.clock.leave()
		}
		if field != "" {
			f.free(field)
			f.ends.Go(func() { f.forget(field) })
		}
	}
}

// Wait returns when the last marks are taken back. No call may begin any more.
func (f *InFlight) Wait() { f.ends.Wait() }

// write writes the names of a call, and returns their field, "" if there is none.
func (f *InFlight) write(names []string) string {
	if f.resting() {
		return ""
	}
	// Not a caller's context: the batch outlives the callers that leave it.
	ctx, cancel := context.WithTimeout(context.Background(), markWait)
	defer cancel()
	field := f.field()
	_, err := f.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.HSet(ctx, wire.CallsKey(f.worker), field, strings.Join(names, "\n"))
		pipe.PExpire(ctx, wire.CallsKey(f.worker), callsTTL)
		return nil
	})
	if err != nil {
		f.free(field) // it may still hold the names of an earlier call, which the next one overwrites
		f.rest(err)
		return ""
	}
	return field
}

// field returns a field for the names of a call: one of a call that has ended, else a new one.
func (f *InFlight) field() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.ended); n > 0 {
		field := f.ended[n-1]
		f.ended = f.ended[:n-1]
		return field
	}
	f.number++
	return strconv.Itoa(f.number)
}

// free leaves a field to the next call.
func (f *InFlight) free(field string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = append(f.ended, field)
}

// forget deletes a field, unless another call takes it over.
func (f *InFlight) forget(field string) {
	ctx, cancel := context.WithTimeout(context.Background(), markWait)
	defer cancel()
	wire.Pause(ctx, unmarkWait)
	f.mu.Lock()
	i := slices.Index(f.ended, field)
	if i >= 0 {
		f.ended = slices.Delete(f.ended, i, i+1)
	}
	f.mu.Unlock()
	if i < 0 {
		return
	}
	if err := f.rdb.HDel(ctx, wire.CallsKey(f.worker), field).Err(); err != nil {
		f.rest(err)
	}
}

func (f *InFlight) resting() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Before(f.rests)
}

// rest begins a rest, unless it has begun; so a failure is logged once in it.
func (f *InFlight) rest(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.After(f.rests) {
		f.rests = now.Add(markRest)
		f.log.Warn("marking the tasks of native calls failed, they go unmarked", "for", markRest, "err", err)
	}
}
