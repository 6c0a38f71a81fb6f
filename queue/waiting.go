package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// waitingPage is how many waiting tasks are looked at in a round trip.
const waitingPage = 500

// A Filter chooses tasks that wait, whether for a worker, for their time or for their next try; each field that is
// set narrows the choice.
type Filter struct {
	Lanes   []tasks.Lane // by default live and backfill
	Sources []string     // of the documents
	IDs     []string     // of tasks or of documents
}

func (f Filter) lanes() []tasks.Lane {
	if len(f.Lanes) > 0 {
		return f.Lanes
	}
	return []tasks.Lane{tasks.Live, tasks.Backfill}
}

// wants looks at one task. What can't be read has neither document nor source.
func (f Filter) wants(w waitingTask) bool {
	letter := wire.Letter{ID: w.id}
	if len(f.Sources)+len(f.IDs) > 0 && w.msg != nil {
		letter.Kind = tasks.Kind(w.msg.Type)
		letter.Describe(w.msg.Payload)
	}
	return (len(f.Sources) == 0 || slices.Contains(f.Sources, letter.Source)) &&
		(len(f.IDs) == 0 || slices.Contains(f.IDs, w.id) || letter.Document != "" && slices.Contains(f.IDs, letter.Document))
}

// A Removal counts what became of waiting tasks that were to leave their lanes.
type Removal struct {
	Chosen  int `json:"chosen"`
	Removed int `json:"removed"`
	Taken   int `json:"taken"`   // by a worker meanwhile, or ended: cancelled, it ends early; moved, it runs on where it was
	Refused int `json:"refused"` // can't be moved: queries, and what is not a task of ours
}

// CountWaiting returns how many tasks of a model wait that f wants. What comes or goes meanwhile may be counted twice
// or not at all. With an error it is how many were seen until then.
func (l *Lanes) CountWaiting(ctx context.Context, model string, f Filter) (int, error) {
	r := removing{lanes: l, model: model, filter: f, mode: toCount}
	if err := r.run(ctx); err != nil {
		return r.sum.Chosen, fmt.Errorf("counting waiting tasks of %s: %w", model, err)
	}
	return r.sum.Chosen, nil
}

// CancelWaiting cancels the tasks of a model that wait and that f wants, see [Lanes.Cancel]. Tasks that come
// meanwhile may be missed. progress, which may be nil, is called now and then.
func (l *Lanes) CancelWaiting(ctx context.Context, model string, f Filter, progress func(Removal)) (Removal, error) {
	r := removing{lanes: l, model: model, filter: f, progress: progress, mode: toCancel}
	if err := r.run(ctx); err != nil {
		return r.sum, fmt.Errorf("cancelling waiting tasks of %s: %w", model, err)
	}
	return r.sum, nil
}

// Move puts the documents of a model that wait and that f wants into another lane, live or backfill, with all their
// retries. No limit turns them away. A task is in the new lane before it leaves the old one: whoever dies in between
// has it done twice at worst, where the second finds its vectors stored.
func (l *Lanes) Move(ctx context.Context, model string, f Filter, to tasks.Lane, progress func(Removal)) (Removal, error) {
	if to != tasks.Live && to != tasks.Backfill {
		return Removal{}, fmt.Errorf("moving waiting tasks of %s: lane %q: want %s or %s", model, to, tasks.Live, tasks.Backfill)
	}
	f.Lanes = slices.DeleteFunc(slices.Clone(f.lanes()), func(lane tasks.Lane) bool { return lane == to })
	if len(f.Lanes) == 0 {
		return Removal{}, nil // all are there
	}
	r := removing{lanes: l, model: model, filter: f, progress: progress, mode: toMove, to: to, client: NewInsider(l.rdb)}
	if err := r.run(ctx); err != nil {
		return r.sum, fmt.Errorf("moving waiting tasks of %s to lane %s: %w", model, to, err)
	}
	return r.sum, nil
}

// A removing is one call of CountWaiting, CancelWaiting or Move under way.
type removing struct {
	lanes    *Lanes
	model    string
	filter   Filter
	progress func(Removal)
	sum      Removal

	mode   takeOutMode
	to     tasks.Lane // of a move
	client *Client    // likewise
}

// A waitingTask is what is read of one.
type waitingTask struct {
	id              string
	msg             *wire.Message // nil: none that can be read
	version, tokens int64
}

func (r *removing) run(ctx context.Context) error {
	for _, lane := range r.filter.lanes() {
		if err := wire.CheckLane(r.model, lane); err != nil {
			return err
		}
		k := wire.KeysOf(r.model, lane)
		for _, list := range []string{k.Pending(), k.Scheduled(), k.Retry()} {
			if err := r.walk(ctx, k, list); err != nil {
				return fmt.Errorf("lane %s: %w", lane, err)
			}
		}
	}
	return nil
}

// walk goes through a list from where new tasks come: what workers take at its other end moves nobody, and what
// comes meanwhile only makes it see some twice.
func (r *removing) walk(ctx context.Context, k wire.Keys, list string) error {
	for first := 0; ; {
		ids, err := r.page(ctx, k, list, first)
		if err != nil || len(ids) == 0 {
			return err
		}
		all, err := r.read(ctx, k, ids)
		if err != nil {
			return err
		}
		chosen := slices.DeleteFunc(all, func(w waitingTask) bool { return !r.filter.wants(w) })
		r.sum.Chosen += len(chosen)
		if r.mode == toCount {
			first += len(ids)
			continue
		}
		if chosen, err = r.carry(ctx, chosen); err != nil {
			return err
		}
		removed, err := r.takeOut(ctx, k, chosen, first)
		if err != nil {
			return err
		}
		first += len(ids) - removed
		if r.progress != nil {
			r.progress(r.sum)
		}
	}
}

func (r *removing) page(ctx context.Context, k wire.Keys, list string, first int) ([]string, error) {
	if list == k.Pending() {
		return r.lanes.rdb.LRange(ctx, list, int64(first), int64(first+waitingPage-1)).Result()
	}
	return r.lanes.rdb.ZRevRange(ctx, list, int64(first), int64(first+waitingPage-1)).Result()
}

// read fetches what the filter, or a move, must know of tasks.
func (r *removing) read(ctx context.Context, k wire.Keys, ids []string) ([]waitingTask, error) {
	list := make([]waitingTask, len(ids))
	for i, id := range ids {
		list[i].id = id
	}
	if r.mode != toMove && len(r.filter.Sources)+len(r.filter.IDs) == 0 {
		return list, nil
	}
	cmds := make([]*redis.SliceCmd, len(ids))
	_, err := r.lanes.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = pipe.HMGet(ctx, k.Task(id), "msg", "version", "tokens")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, cmd := range cmds {
		text := func(n int) string { s, _ := cmd.Val()[n].(string); return s }
		if m, err := wire.ParseMessage([]byte(text(0))); err == nil && m.Type != "" {
			list[i].msg = m
		}
		list[i].version, _ = strconv.ParseInt(text(1), 10, 64) // none is 0
		list[i].tokens, _ = strconv.ParseInt(text(2), 10, 64)
	}
	return list, nil
}

// carry puts tasks into the lane they move to, and returns those that may leave theirs.
func (r *removing) carry(ctx context.Context, list []waitingTask) ([]waitingTask, error) {
	if r.mode == toCancel || len(list) == 0 {
		return list, nil
	}
	var movable []waitingTask
	var copies []tasks.Task
	for _, w := range list {
		if w.msg == nil || tasks.Kind(w.msg.Type) != tasks.EmbedDocument {
			r.sum.Refused++
			continue
		}
		movable = append(movable, w)
		copies = append(copies, tasks.Task{
			ID: w.id, Kind: tasks.EmbedDocument, Model: r.model, Lane: r.to, Payload: w.msg.Payload, Timeout: w.msg.Timeout,
			Expires: w.msg.Expires, Trace: w.msg.Trace, Tokens: int(w.tokens), Version: w.version,
		})
	}
	receipts, err := r.client.Enqueue(ctx, copies)
	if err != nil {
		return nil, err
	}
	var there []waitingTask
	for i, receipt := range receipts {
		if !receipt.State.Accepted() {
			r.sum.Refused++
			continue
		}
		there = append(there, movable[i])
	}
	return there, nil
}

// takeOut removes tasks from the page that begins at first, and returns how many were there.
func (r *removing) takeOut(ctx context.Context, k wire.Keys, list []waitingTask, first int) (int, error) {
	if len(list) == 0 {
		return 0, nil
	}
	ids := make([]string, len(list))
	for i, w := range list {
		ids[i] = w.id
	}
	answers, err := r.lanes.takeOut(ctx, k, r.mode, ids, first, first+waitingPage+lineSlack)
	if err != nil {
		return 0, err
	}
	removed := 0
	for _, answer := range answers {
		if answer == Removed {
			removed++
		}
	}
	r.sum.Removed += removed
	r.sum.Taken += len(answers) - removed
	return removed, nil
}

// ErrInUse is wrapped when an alias is not forgotten because somebody uses it.
var ErrInUse = errors.New("it is in use")

// Forget removes everything that the queue holds of an alias: its lanes with what waits in them, its dead letters,
// marks and counts. Documents and vectors are the store's, and stay. It refuses with an error that wraps [ErrInUse]
// while tasks are in workers' hands. It looks at every key of Redis, and returns how many keys went.
func (l *Lanes) Forget(ctx context.Context, model string) (int, error) {
	if err := tasks.CheckModel(model); err != nil {
		return 0, fmt.Errorf("forgetting an alias: %w", err)
	}
	status, err := l.Status(ctx, model)
	if err != nil {
		return 0, err
	}
	var active int64
	for _, s := range status {
		if s.Model == model {
			active += s.Active
		}
	}
	if active > 0 {
		return 0, fmt.Errorf("forgetting alias %s: %w: workers have %d of its tasks in hand", model, ErrInUse, active)
	}
	return l.ForgetInUse(ctx, model)
}

// ForgetInUse is [Lanes.Forget] for an alias whose tasks nobody will ever give back. A worker that has them all the
// same finds its leases gone.
func (l *Lanes) ForgetInUse(ctx context.Context, model string) (int, error) {
	if err := tasks.CheckModel(model); err != nil {
		return 0, fmt.Errorf("forgetting an alias: %w", err)
	}
	gone := 0
	for _, lane := range tasks.Lanes {
		k := wire.KeysOf(model, lane)
		// First what workers look at, at one moment: nobody begins with a task that goes.
		n, err := l.rdb.Del(ctx, k.Pending(), k.Scheduled(), k.Retry(), k.Active(), k.Lease()).Result()
		if err == nil {
			err = l.rdb.SRem(ctx, wire.RegistryKey, k.Queue()).Err()
		}
		if err != nil {
			return gone, fmt.Errorf("forgetting alias %s: %w", model, err)
		}
		gone += int(n)
	}
	n, err := l.sweep(ctx, model)
	if err != nil {
		err = fmt.Errorf("forgetting alias %s: %w", model, err)
	}
	return gone + n, err
}

// sweep removes every key of an alias's lanes, on every node.
func (l *Lanes) sweep(ctx context.Context, model string) (int, error) {
	cluster, ok := l.rdb.(*redis.ClusterClient)
	if !ok {
		return sweepNode(ctx, l.rdb, model)
	}
	counts := make(chan int, 1)
	counts <- 0
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		n, err := sweepNode(ctx, node, model)
		counts <- n + <-counts
		return err
	})
	return <-counts, err
}

func sweepNode(ctx context.Context, node redis.Cmdable, model string) (int, error) {
	var prefixes []string
	for _, lane := range tasks.Lanes {
		k := wire.KeysOf(model, lane)
		prefixes = append(prefixes, string(k), strings.TrimSuffix(k.Dead(), "dead"))
	}
	gone := 0
	for cursor, more := uint64(0), true; more; more = cursor != 0 {
		// An alias holds nothing that a pattern would take for something else, see [tasks.CheckModel].
		keys, next, err := node.Scan(ctx, cursor, "*:{embed:"+model+":*", 1000).Result()
		if err != nil {
			return gone, err
		}
		cursor = next
		cmds, err := node.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for _, key := range keys {
				if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
					pipe.Unlink(ctx, key)
				}
			}
			return nil
		})
		if err != nil {
			return gone, err
		}
		for _, cmd := range cmds {
			if c, ok := cmd.(*redis.IntCmd); ok {
				gone += int(c.Val())
			}
		}
	}
	return gone, nil
}
