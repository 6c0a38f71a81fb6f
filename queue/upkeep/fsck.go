package upkeep

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed mend.lua
var mendLua string

const (
	// scanPage and mendPage bound one command of a check and of a repair.
	scanPage = 500
	mendPage = 20
	// archiveAlarm is how long asynq's archive may be before something must be wrong with its sweep (T6).
	archiveAlarm = 5000
	// findingExamples is how many ids a finding names.
	findingExamples = 3
)

// A Fault is a kind of inconsistency.
type Fault string

// The faults that [Fsck] knows, with the trap of docs/asynq.md that leaves them.
const (
	Unregistered   Fault = "unregistered"         // a lane with tasks is not in asynq's registry (T8)
	NoLease        Fault = "active_without_lease" // nobody would ever take it back (T34)
	LeaseOnly      Fault = "lease_without_active" // the same from the other side
	NoHash         Fault = "listed_without_hash"  // an id in a list, its task is gone (T34)
	NoList         Fault = "hash_without_list"    // a task in no list: it never runs, and its id is taken (T7)
	Phantom        Fault = "phantom"              // a hash without a task, made by a late result (T30)
	Junk           Fault = "junk_message"         // it can't be read, and stops asynq's recovery everywhere (T35)
	Misplaced      Fault = "misplaced"            // in two lists, or in another than its hash says
	LongArchive    Fault = "long_archive"         // asynq's archive is not swept, and will lose what is in it (T5, T6)
	UniqueLock     Fault = "unique_lock"          // a lock of asynq's, which nothing of ours takes (T15)
	LetterNoHash   Fault = "letter_without_hash"  // in the index of the dead letters, and nothing behind it
	LetterNoIndex  Fault = "letter_without_index" // a dead letter that no list shows
	CausesMiscount Fault = "causes_miscount"      // the histogram of causes does not add up
	StaleProcess   Fault = "stale_process"        // asynq's registries name a process that was killed (T27)
)

// A Finding is what [Fsck] found of one fault in one lane, or, without model and lane, beside the lanes.
type Finding struct {
	Fault    Fault      `json:"fault"`
	Model    string     `json:"model"`
	Lane     tasks.Lane `json:"lane"`
	Count    int        `json:"count"`
	Repaired int        `json:"repaired"`
	Examples []string   `json:"examples,omitempty"` // ids, at most three
}

// FsckOptions may be nil.
type FsckOptions struct {
	Models []string // aliases to look at beside those of the registry and of the tasks that are there
	Repair bool     // mend what is found
}

// Fsck looks for everything that a crash, a trap of asynq's or a hand in Redis can leave behind, and mends it
// if asked: never by losing a task, in small steps while the fleet works, and as often as one likes. What
// is under way while it looks may be reported; it is judged again before anything is done to it.
//
// The lists of a lane are read in one transaction: about 0.1 s for each 100,000 waiting tasks.
func Fsck(ctx context.Context, rdb redis.UniversalClient, opts *FsckOptions) ([]Finding, error) {
	if opts == nil {
		opts = &FsckOptions{}
	}
	f := &fsck{rdb: rdb, repair: opts.Repair, script: wire.NewScript(mendLua), sweeper: New(rdb, nil)}
	names, err := f.queues(ctx, opts.Models)
	if err != nil {
		return nil, fmt.Errorf("looking for lanes: %w", err)
	}
	for _, name := range names {
		model, lane, ok := wire.ParseQueueName(name)
		if !ok {
			continue // another program's queue
		}
		l := &laneCheck{fsck: f, laneSweep: laneSweep{f.sweeper, wire.KeysOf(model, lane), model, lane}}
		if err := l.check(ctx); err != nil {
			return f.findings, fmt.Errorf("checking lane %s of %s: %w", lane, model, err)
		}
	}
	if err := f.checkProcesses(ctx); err != nil {
		return f.findings, fmt.Errorf("checking asynq's registries of processes: %w", err)
	}
	return f.findings, nil
}

// An fsck is one call of Fsck under way.
type fsck struct {
	rdb     redis.UniversalClient
	repair  bool
	script  wire.Script
	sweeper *Sweeper

	registered map[string]bool // queue names
	findings   []Finding
}

// queues returns the queues of the models, of the registry, and of the tasks that are there, sorted.
func (f *fsck) queues(ctx context.Context, models []string) ([]string, error) {
	names, err := f.rdb.SMembers(ctx, wire.RegistryKey).Result()
	if err != nil {
		return nil, err
	}
	f.registered = map[string]bool{}
	for _, name := range names {
		f.registered[name] = true
	}
	err = scanKeys(ctx, f.rdb, wire.LanePattern, func(key string) {
		name, ok := wire.QueueOfKey(key)
		if ok && (len(names) == 0 || names[len(names)-1] != name) {
			names = append(names, name)
		}
	})
	for _, model := range models {
		for _, lane := range tasks.Lanes {
			names = append(names, wire.QueueName(model, lane))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), err
}

// scanKeys calls yield for every key that matches, on every node of a cluster; perhaps twice for some.
func scanKeys(ctx context.Context, rdb redis.UniversalClient, pattern string, yield func(key string)) error {
	var mu sync.Mutex
	scan := func(ctx context.Context, node redis.Cmdable) error {
		iter := node.Scan(ctx, 0, pattern, scanPage).Iterator()
		for iter.Next(ctx) {
			mu.Lock()
			yield(iter.Val())
			mu.Unlock()
		}
		return iter.Err()
	}
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return scan(ctx, node) })
	}
	return scan(ctx, rdb)
}

// A laneCheck is one lane's part of it.
type laneCheck struct {
	*fsck
	laneSweep

	hashes map[string]taskHash // by task id
	places map[string][]string // by task id: the states of the lists that hold it
	leased map[string]bool
}

// A taskHash is what a check needs of a task.
type taskHash struct {
	state    string
	message  bool // there is one
	readable bool
}

func (l *laneCheck) check(ctx context.Context) error {
	// Hashes before lists: a task that is enqueued in between is listed and has a hash, which is asked for.
	if err := l.readHashes(ctx); err != nil {
		return err
	}
	if err := l.readLists(ctx); err != nil {
		return err
	}
	if err := l.readMissing(ctx); err != nil {
		return err
	}
	found := map[Fault][]string{}
	for id, places := range l.places {
		if fault := l.judgeListed(id, places); fault != "" {
			found[fault] = append(found[fault], id)
		}
	}
	var lost []string
	for id := range l.hashes {
		if len(l.places[id]) == 0 && !l.leased[id] {
			lost = append(lost, id)
		}
	}
	if err := l.judgeLost(ctx, lost, found); err != nil {
		return err
	}
	return errors.Join(l.report(ctx, found), l.checkRest(ctx))
}

// readHashes reads every task of the lane, whatever lists it is in.
func (l *laneCheck) readHashes(ctx context.Context) error {
	l.hashes = map[string]taskHash{}
	var ids []string
	err := scanKeys(ctx, l.rdb, l.keys.Tasks()+"*", func(key string) {
		ids = append(ids, strings.TrimPrefix(key, l.keys.Tasks()))
	})
	if err != nil {
		return err
	}
	return l.readTasks(ctx, ids)
}

// readTasks adds tasks to the hashes, those that are there.
func (l *laneCheck) readTasks(ctx context.Context, ids []string) error {
	for part := range slices.Chunk(ids, scanPage) {
		cmds := make([]*redis.SliceCmd, len(part))
		there := make([]*redis.IntCmd, len(part))
		_, err := l.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for i, id := range part {
				cmds[i] = pipe.HMGet(ctx, l.keys.Task(id), "state", "msg")
				there[i] = pipe.Exists(ctx, l.keys.Task(id))
			}
			return nil
		})
		if err != nil {
			return err
		}
		for i, id := range part {
			if there[i].Val() == 0 {
				delete(l.hashes, id)
				continue
			}
			state, _ := cmds[i].Val()[0].(string)
			msg, ok := cmds[i].Val()[1].(string)
			m, err := wire.ParseMessage([]byte(msg))
			l.hashes[id] = taskHash{state: state, message: ok && msg != "", readable: err == nil && m.Type != "" && m.ID == id}
		}
	}
	return nil
}

// readLists reads who is where, all lists at one moment.
func (l *laneCheck) readLists(ctx context.Context) error {
	pipe := l.rdb.TxPipeline()
	lists := map[string]*redis.StringSliceCmd{
		"pending":   pipe.LRange(ctx, l.keys.Pending(), 0, -1),
		"active":    pipe.LRange(ctx, l.keys.Active(), 0, -1),
		"scheduled": pipe.ZRange(ctx, l.keys.Scheduled(), 0, -1),
		"retry":     pipe.ZRange(ctx, l.keys.Retry(), 0, -1),
		"archived":  pipe.ZRange(ctx, l.keys.Archived(), 0, -1),
		"completed": pipe.ZRange(ctx, l.keys.Completed(), 0, -1),
	}
	leases := pipe.ZRange(ctx, l.keys.Lease(), 0, -1)
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	l.places, l.leased = map[string][]string{}, map[string]bool{}
	for state, cmd := range lists {
		for _, id := range cmd.Val() {
			l.places[id] = append(l.places[id], state)
		}
	}
	for _, id := range leases.Val() {
		l.leased[id] = true
		if l.places[id] == nil {
			l.places[id] = nil // a key all the same: also whom only a lease holds is looked at
		}
	}
	return nil
}

// readMissing asks for the hashes of listed tasks that the scan did not see.
func (l *laneCheck) readMissing(ctx context.Context) error {
	var ids []string
	for id := range l.places {
		if _, ok := l.hashes[id]; !ok {
			ids = append(ids, id)
		}
	}
	return l.readTasks(ctx, ids)
}

// judgeListed returns what is wrong with a task that is in some list, "" if nothing is.
func (l *laneCheck) judgeListed(id string, places []string) Fault {
	hash, ok := l.hashes[id]
	active := slices.Contains(places, "active")
	switch {
	case !ok:
		return NoHash
	case !hash.message:
		return Phantom
	case !hash.readable:
		return Junk
	case active && !l.leased[id]:
		return NoLease
	case l.leased[id] && !active:
		return LeaseOnly
	case len(places) != 1 || hash.state != places[0] && !active:
		return Misplaced
	default:
		return ""
	}
}

// judgeLost sorts hashes that are in no list and are still there.
func (l *laneCheck) judgeLost(ctx context.Context, ids []string, found map[Fault][]string) error {
	if err := l.readTasks(ctx, ids); err != nil {
		return err
	}
	for _, id := range ids {
		hash, ok := l.hashes[id]
		switch {
		case !ok: // done meanwhile
		case !hash.message, hash.state == "completed":
			found[Phantom] = append(found[Phantom], id)
		case !hash.readable:
			found[Junk] = append(found[Junk], id)
		default:
			found[NoList] = append(found[NoList], id)
		}
	}
	return nil
}

// mending says how faults of tasks are mended; those of leases are the reaper's.
var mending = map[Fault]string{NoHash: "drop", Phantom: "forget", Junk: "archive", NoList: "place", Misplaced: "settle"}

// report turns what was found into findings, mended if that was asked for.
func (l *laneCheck) report(ctx context.Context, found map[Fault][]string) error {
	for _, fault := range []Fault{NoHash, Phantom, Junk, NoList, Misplaced, NoLease, LeaseOnly} {
		ids := found[fault]
		if len(ids) == 0 {
			continue
		}
		slices.Sort(ids)
		mended := 0
		var err error
		if l.repair && mending[fault] != "" {
			mended, err = l.mend(ctx, mending[fault], ids)
		} else if l.repair {
			mended, err = l.release(ctx, ids)
		}
		l.add(fault, ids, mended)
		if err != nil {
			return fmt.Errorf("repairing %s: %w", fault, err)
		}
	}
	return nil
}

func (l *laneCheck) add(fault Fault, ids []string, repaired int) {
	l.findings = append(l.findings, Finding{Fault: fault, Model: l.model, Lane: l.lane, Count: len(ids),
		Repaired: repaired, Examples: slices.Clone(ids[:min(len(ids), findingExamples)])})
}

// mend runs the script, a few tasks at a time, since it may have to read long lists.
func (l *laneCheck) mend(ctx context.Context, action string, ids []string) (mended int, err error) {
	k := l.keys
	for part := range slices.Chunk(ids, mendPage) {
		keys := []string{k.Pending(), k.Active(), k.Lease(), k.Scheduled(), k.Retry(), k.Archived(), k.Completed()}
		args := []any{action, time.Now().Unix()}
		for _, id := range part {
			keys, args = append(keys, k.Task(id)), append(args, id)
		}
		n, err := l.script.Run(ctx, l.rdb, keys, args...).Int()
		if err != nil {
			return mended, err
		}
		mended += n
	}
	return mended, nil
}

// release has the reaper look at tasks without a lease, or with one that nobody renews. One whose lease
// still holds is left to lapse.
func (l *laneCheck) release(ctx context.Context, ids []string) (released int, err error) {
	for part := range slices.Chunk(ids, wire.CallTasks) {
		answers, err := l.reapSome(ctx, part, &candidates{})
		if err != nil {
			return released, err
		}
		for _, answer := range answers {
			if answer != "alive" {
				released++
			}
		}
	}
	return released, nil
}
