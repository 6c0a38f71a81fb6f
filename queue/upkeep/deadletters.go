package upkeep

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
	"github.com/embedfleet/embedfleet/tasks"
)

//go:embed bury.lua
var buryLua string

//go:embed carry.lua
var carryLua string

//go:embed leave.lua
var leaveLua string

const (
	// archivePage is how many of asynq's archived tasks become letters at a time; its own trimming breaks
	// down at 7,999 (T6).
	archivePage = 500

	// The bounds of one lane's dead letters; a letter is about 1 kB and the text. They are enforced every
	// trimEvery, and what goes is counted in the log.
	maxLetters   = 250_000
	maxLetterAge = 90 * 24 * time.Hour
)

// quarantine moves a task that crashed too often to quarantine, or out of it to the dead. The task is in the
// new lane before it leaves the old one, which may be another hash slot; whoever repeats this after a
// crash in between finds it attached there.
func (l laneSweep) quarantine(ctx context.Context, id string) error {
	fields, err := l.rdb.HMGet(ctx, l.keys.Task(id), "msg", "crashes", "charged", "version").Result()
	if err != nil {
		return err
	}
	raw, _ := fields[0].(string)
	crashes, _ := fields[1].(string)
	worker, _ := fields[2].(string)
	version, _ := fields[3].(string)
	poison := func(m *wire.Message, format string, args ...any) error {
		return l.buryPoison(ctx, m, worker, fmt.Sprintf(format, args...))
	}
	msg, err := wire.ParseMessage([]byte(raw))
	if err != nil {
		return poison(&wire.Message{ID: id}, "it crashed workers, and its message can't be read")
	}
	if l.lane == tasks.Quarantine {
		return poison(msg, "it crashed its worker %s times, the last time alone", crashes)
	}
	moved := tasks.Task{ID: id, Kind: tasks.Kind(msg.Type), Model: l.model, Lane: tasks.Quarantine,
		Payload: msg.Payload, Timeout: max(msg.Timeout, time.Second), Expires: msg.Expires, Trace: msg.Trace}
	moved.Version, _ = strconv.ParseInt(version, 10, 64) // 0 where it has none
	receipts, err := l.client.Enqueue(ctx, []tasks.Task{moved})
	if err != nil {
		return err
	}
	if receipts[0].Err != nil {
		return poison(msg, "it crashed workers, and can't go to quarantine: %v", receipts[0].Err)
	}
	// Its past goes with it. Of an older task in the way it is the same past.
	hash := wire.KeysOf(l.model, tasks.Quarantine).Task(receipts[0].ID)
	if err := l.carry.Run(ctx, l.rdb, []string{hash}, crashes).Err(); err != nil {
		return err
	}
	l.log.Warn("task goes to quarantine", "task", id, "crashes", crashes)
	return l.leave.Run(ctx, l.rdb, []string{l.keys.Active(), l.keys.Lease(), l.keys.Task(id)}, id).Err()
}

// buryPoison makes an active task a dead letter.
func (l laneSweep) buryPoison(ctx context.Context, m *wire.Message, worker, cause string) error {
	letter := Letter{ID: m.ID, Kind: tasks.Kind(m.Type), Code: CodePoison, Message: "poison: " + cause,
		Last: time.Now(), Attempts: m.Retried, Worker: worker}
	letter.Describe(m.Payload)
	l.log.Error("task is dead", "task", m.ID, "lane", string(l.lane), "code", CodePoison, "cause", cause)
	return l.buryAll(ctx, l.keys.Active(), []Letter{letter})
}

// buryArchived turns what asynq archived into dead letters, each exactly once however many processes do it:
// whoever takes an id out of the archive writes its letter in the same script.
func (l laneSweep) buryArchived(ctx context.Context) error {
	for {
		ids, err := l.rdb.ZRange(ctx, l.keys.Archived(), 0, archivePage-1).Result()
		if err != nil || len(ids) == 0 {
			return err
		}
		letters, err := l.archived(ctx, ids)
		if err != nil {
			return err
		}
		if err := l.buryAll(ctx, l.keys.Archived(), letters); err != nil {
			return err
		}
		l.log.Warn("tasks are dead", "model", l.model, "lane", string(l.lane), "tasks", len(ids), "codes", codes(letters))
	}
}

// codes counts the letters by cause, as one word each, for a log line.
func codes(letters []Letter) []string {
	counts := map[string]int{}
	for _, l := range letters {
		counts[l.Code]++
	}
	var words []string
	for _, code := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%s:%d", code, counts[code]))
	}
	return words
}

// archived writes the letters of archived tasks, by what is known of them.
func (l laneSweep) archived(ctx context.Context, ids []string) ([]Letter, error) {
	cmds := make([]*redis.SliceCmd, len(ids))
	_, err := l.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = pipe.HMGet(ctx, l.keys.Task(id), "msg", "code", "worker")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	letters := make([]Letter, len(ids))
	for i, id := range ids {
		letters[i] = archivedLetter(id, cmds[i].Val())
	}
	return letters, nil
}

// archivedLetter reads the msg, code and worker of an archived task. Also of one that can't be read a letter
// is written: it is no reason to lose it.
func archivedLetter(id string, values []any) Letter {
	msg, ok := values[0].(string)
	l := Letter{ID: id, Last: time.Now(), Code: CodeUnknown}
	if code, _ := values[1].(string); code != "" {
		l.Code = wire.Code(code)
	}
	l.Worker, _ = values[2].(string)
	m, err := wire.ParseMessage([]byte(msg))
	switch {
	case !ok:
		l.Message = "its hash is gone"
		return l
	case err != nil:
		l.Message = err.Error()
		return l
	}
	l.Kind, l.Message, l.Attempts = tasks.Kind(m.Type), m.ErrorMsg, m.Retried+1
	if !m.LastFailedAt.IsZero() {
		l.Last = m.LastFailedAt
	}
	l.Describe(m.Payload)
	return l
}

// buryAll runs the script for tasks that must be in a list or set to be buried.
func (l laneSweep) buryAll(ctx context.Context, from string, letters []Letter) error {
	for part := range slices.Chunk(letters, wire.CallTasks) {
		keys := []string{from, l.keys.Active(), l.keys.Lease(), l.keys.Dead(), l.keys.Causes()}
		var args []any
		for _, letter := range part {
			keys = append(keys, l.keys.Task(letter.ID), l.keys.Letter(letter.ID))
			args = append(args, letterArgs(letter)...)
		}
		if err := l.bury.Run(ctx, l.rdb, keys, args...).Err(); err != nil {
			return fmt.Errorf("writing dead letters: %w", err)
		}
	}
	return nil
}

// trim drops letters that are too old or too many, the oldest first.
func (l laneSweep) trim(ctx context.Context) error {
	count, err := l.rdb.ZCard(ctx, l.keys.Dead()).Result()
	if err != nil || count == 0 {
		return err
	}
	limit := time.Now().Add(-maxLetterAge).UnixMilli()
	old, err := l.rdb.ZCount(ctx, l.keys.Dead(), "-inf", fmt.Sprint(limit)).Result()
	if err != nil {
		return err
	}
	excess := max(old, count-maxLetters)
	if excess <= 0 {
		return nil
	}
	l.log.Warn("dropping old dead letters", "model", l.model, "lane", string(l.lane), "letters", excess, "kept", count-excess)
	for excess > 0 {
		ids, err := l.rdb.ZRange(ctx, l.keys.Dead(), 0, min(excess, archivePage)-1).Result()
		if err != nil || len(ids) == 0 {
			return err
		}
		if _, err := l.dead.letters.Forget(ctx, l.keys, ids); err != nil {
			return err
		}
		excess -= int64(len(ids))
	}
	return nil
}

// letterArgs are those of bury.lua for one letter; what the task's hash knows is left to the script.
func letterArgs(l Letter) []any {
	return []any{l.ID, l.Code, l.Message, l.Last.UnixMilli(), l.Attempts, l.Worker, string(l.Kind), l.Document, l.Source}
}
