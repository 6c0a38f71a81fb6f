package upkeep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/embedfleet/embedfleet/queue"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

// A Letter is a dead task, see [Dead].
type Letter = wire.Letter

// The causes of letters that are the queue's own; all others are what [tasks.Code] says of a handler's error.
const (
	CodePoison  = wire.CodePoison  // it crashed every worker that touched it, the last time alone
	CodeTimeout = wire.CodeTimeout // its own work took longer than its deadline
	CodeLease   = wire.CodeLease   // its worker was away for longer than its lease
	CodeUnknown = wire.CodeUnknown // archived by somebody who left no code: an asynq tool, another release
)

// ErrNoLetter is wrapped when there is no dead letter of an id.
var ErrNoLetter = errors.New("no dead letter")

const (
	// letterPage is how many letters are read in a round trip, replayPage how many texts: Redis is busy
	// for a millisecond or two, then serves the others.
	letterPage = 1000
	replayPage = 500
)

// A DeadFilter chooses dead letters; each field that is set narrows the choice, the zero value takes all.
type DeadFilter struct {
	Lanes   []tasks.Lane // by default every lane
	Codes   []string     // causes
	Sources []string     // of the documents
	IDs     []string     // of tasks or of documents
	After   time.Time    // the last failure is not before it
	Before  time.Time    // the last failure is before it
}

func (f DeadFilter) lanes() []tasks.Lane {
	if len(f.Lanes) > 0 {
		return f.Lanes
	}
	return tasks.Lanes
}

// wants looks at what the index by time can't tell.
func (f DeadFilter) wants(l Letter) bool {
	among := func(list []string, s string) bool { return len(list) == 0 || slices.Contains(list, s) }
	return among(f.Codes, l.Code) && among(f.Sources, l.Source) &&
		(among(f.IDs, l.ID) || slices.Contains(f.IDs, l.Document))
}

// window is the index's range of the letters that f's times allow.
func (f DeadFilter) window() *redis.ZRangeBy {
	by := &redis.ZRangeBy{Min: "-inf", Max: "+inf"}
	if !f.After.IsZero() {
		by.Min = strconv.FormatInt(f.After.UnixMilli(), 10)
	}
	if !f.Before.IsZero() {
		by.Max = "(" + strconv.FormatInt(f.Before.UnixMilli(), 10)
	}
	return by
}

// Dead shows, replays and drops dead letters. They are written by servers and by [Maintenance].
type Dead struct {
	rdb     redis.UniversalClient
	client  *queue.Client
	letters wire.Letters
}

// NewDead returns a view of the dead letters. The Redis client is the caller's.
func NewDead(rdb redis.UniversalClient) *Dead {
	return &Dead{rdb: rdb, client: queue.NewInsider(rdb), letters: wire.NewLetters(rdb)}
}

// List returns at most limit letters of a model, the lanes in falling urgency and in each the latest first.
// Letters that come or go meanwhile may be missed.
func (d *Dead) List(ctx context.Context, model string, f DeadFilter, limit int) ([]Letter, error) {
	var list []Letter
	err := d.each(ctx, model, f, limit, func(l Letter) bool {
		if len(list) < limit {
			list = append(list, l)
		}
		return len(list) < limit
	})
	return list, err
}

// each calls yield for every letter that f wants until it returns false. The first page is as long as what
// the caller expects to need; all others are full.
func (d *Dead) each(ctx context.Context, model string, f DeadFilter, first int, yield func(Letter) bool) error {
	for _, lane := range f.lanes() {
		if err := wire.CheckLane(model, lane); err != nil {
			return fmt.Errorf("reading dead letters: %w", err)
		}
		pages := letterPages{rdb: d.rdb, key: wire.KeysOf(model, lane).Dead(), at: *f.window()}
		for size := min(max(first, 1), letterPage); !pages.end; size = letterPage {
			ids, err := pages.next(ctx, size)
			if err != nil {
				return fmt.Errorf("reading dead letters: %w", err)
			}
			letters, err := d.letters.Read(ctx, model, lane, ids)
			if err != nil {
				return err
			}
			for _, l := range letters {
				if f.wants(l) && !yield(l) {
					return nil
				}
			}
		}
	}
	return nil
}

// letterPages walks through an index of letters, the latest first. It remembers the time it has come to and not
// a position: a position costs Redis as many steps as it is high, for each page anew.
type letterPages struct {
	rdb redis.UniversalClient
	key string
	at  redis.ZRangeBy // Offset counts those of time Max that were seen
	end bool
}

// next returns the ids of the next letters, at most size.
func (p *letterPages) next(ctx context.Context, size int) ([]string, error) {
	p.at.Count = int64(size)
	page, err := p.rdb.ZRevRangeByScoreWithScores(ctx, p.key, &p.at).Result()
	if err != nil {
		return nil, err
	}
	p.end = len(page) < size
	ids := make([]string, len(page))
	seen := int64(0) // of the last one's time
	for i, z := range page {
		ids[i], _ = z.Member.(string)
		if seen++; i > 0 && z.Score != page[i-1].Score {
			seen = 1
		}
	}
	if len(page) == 0 {
		return nil, nil
	}
	last := strconv.FormatFloat(page[len(page)-1].Score, 'f', -1, 64)
	if last == p.at.Max {
		seen += p.at.Offset
	}
	p.at.Max, p.at.Offset = last, seen
	return ids, nil
}

// Payload returns what the task of a letter carried, as its producer wrote it, for a person who asked to see
// the text. Without it a letter could not be replayed, so it is kept as long as the letter.
func (d *Dead) Payload(ctx context.Context, l Letter) ([]byte, error) {
	msgs, err := d.messages(ctx, wire.KeysOf(l.Model, l.Lane), []string{l.ID})
	if err != nil {
		return nil, err
	}
	if msgs[0] == nil {
		return nil, fmt.Errorf("%w of task %s that can be read", ErrNoLetter, l.ID)
	}
	return msgs[0].Payload, nil
}

// messages returns the messages of letters, nil for one that is gone or can't be read.
func (d *Dead) messages(ctx context.Context, k wire.Keys, ids []string) ([]*wire.Message, error) {
	cmds := make([]*redis.StringCmd, len(ids))
	_, err := d.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = pipe.HGet(ctx, k.Letter(id), "msg")
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("reading the tasks of %d dead letters: %w", len(ids), err)
	}
	list := make([]*wire.Message, len(ids))
	for i, cmd := range cmds {
		if m, err := wire.ParseMessage([]byte(cmd.Val())); err == nil && m.Type != "" {
			list[i] = m
		}
	}
	return list, nil
}

// A CauseCount says how many letters have one cause.
type CauseCount struct {
	Code    string `json:"cause"`
	Letters int64  `json:"letters"`
}

// Causes returns the histogram of a model's dead letters, the most frequent cause first. It costs one small
// read per lane, however many letters there are.
func (d *Dead) Causes(ctx context.Context, model string, lanes ...tasks.Lane) ([]CauseCount, error) {
	counts := map[string]int64{}
	for _, lane := range (DeadFilter{Lanes: lanes}).lanes() {
		fields, err := d.rdb.HGetAll(ctx, wire.KeysOf(model, lane).Causes()).Result()
		if err != nil {
			return nil, fmt.Errorf("reading the causes of dead letters: %w", err)
		}
		for code, value := range fields {
			if n, err := strconv.ParseInt(value, 10, 64); err == nil {
				counts[code] += n
			}
		}
	}
	list := make([]CauseCount, 0, len(counts))
	for code, n := range counts {
		list = append(list, CauseCount{code, n})
	}
	slices.SortFunc(list, func(a, b CauseCount) int {
		return cmp.Or(cmp.Compare(b.Letters, a.Letters), cmp.Compare(a.Code, b.Code))
	})
	return list, nil
}

// A Revival says what became of letters that were to be replayed.
type Revival struct {
	Chosen     int `json:"chosen"`     // by the filter
	Replayed   int `json:"replayed"`   // they wait in their lane, the letter is gone
	Attached   int `json:"attached"`   // the same task waits or runs there already; the letter stays
	Unreadable int `json:"unreadable"` // no task can be made of the letter; it stays
	Gone       int `json:"gone"`       // dropped or replayed by somebody else meanwhile
}

// Replay gives the chosen dead tasks a new life in the lane where they died, with all their retries. Each
// leaves the dead and enters the lane in one step; Replay may be stopped and called again at any time, and
// progress, which may be nil, is called after each batch.
func (d *Dead) Replay(ctx context.Context, model string, f DeadFilter, progress func(Revival)) (Revival, error) {
	var r Revival
	err := d.batches(ctx, model, f, func(lane tasks.Lane, chosen int, ids []string) error {
		r.Chosen = chosen
		err := d.replay(ctx, &r, model, lane, ids)
		if progress != nil {
			progress(r)
		}
		return err
	})
	if err != nil {
		return r, fmt.Errorf("replaying dead letters: %d of %d replayed: %w", r.Replayed, r.Chosen, err)
	}
	return r, nil
}

func (d *Dead) replay(ctx context.Context, r *Revival, model string, lane tasks.Lane, ids []string) error {
	k := wire.KeysOf(model, lane)
	msgs, err := d.messages(ctx, k, ids)
	if err != nil {
		return err
	}
	var list []tasks.Task
	for i, m := range msgs {
		if m == nil {
			there, err := d.rdb.Exists(ctx, k.Letter(ids[i])).Result()
			if err != nil {
				return err
			}
			r.Unreadable += int(there)
			r.Gone += 1 - int(there)
			continue
		}
		list = append(list, tasks.Task{ID: ids[i], Kind: tasks.Kind(m.Type), Model: model, Lane: lane,
			Payload: m.Payload, Timeout: max(m.Timeout, time.Second)}) // whoever replays wants it, expired or not
	}
	receipts, err := d.client.Enqueue(ctx, list)
	for _, receipt := range receipts {
		switch receipt.State {
		case queue.Unknown: // err tells
		case queue.Attached, queue.Done:
			r.Attached++
		case queue.Refused:
			r.Unreadable++
		default:
			r.Replayed++
		}
	}
	return err
}

// Drop removes the chosen letters, texts and all, and returns how many there were.
func (d *Dead) Drop(ctx context.Context, model string, f DeadFilter) (int, error) {
	dropped := 0
	err := d.batches(ctx, model, f, func(lane tasks.Lane, _ int, ids []string) error {
		n, err := d.letters.Forget(ctx, wire.KeysOf(model, lane), ids)
		dropped += n
		return err
	})
	if err != nil {
		return dropped, fmt.Errorf("dropping dead letters: %d dropped: %w", dropped, err)
	}
	return dropped, nil
}

// batches calls do with the ids of all letters that f wants, replayPage at a time. The choice is made before
// the first call, since do changes what is there.
func (d *Dead) batches(ctx context.Context, model string, f DeadFilter, do func(lane tasks.Lane, chosen int, ids []string) error) error {
	chosen, byLane := 0, map[tasks.Lane][]string{}
	err := d.each(ctx, model, f, letterPage, func(l Letter) bool {
		byLane[l.Lane] = append(byLane[l.Lane], l.ID)
		chosen++
		return true
	})
	if err != nil {
		return err
	}
	for _, lane := range f.lanes() {
		slices.Reverse(byLane[lane]) // those that died first go first
		for ids := range slices.Chunk(byLane[lane], replayPage) {
			if err := do(lane, chosen, ids); err != nil {
				return err
			}
		}
	}
	return nil
}
