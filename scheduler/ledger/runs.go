package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/scheduler"
)

const (
	// History is how long runs are remembered.
	History = 30 * 24 * time.Hour
	// longestError is what the history keeps of an error, in bytes.
	longestError = 500
)

// An entry is a run as it is kept.
type entry struct {
	Slot    string           `json:"slot"`
	Outcome string           `json:"outcome"` // done, failed, paused or released
	Attempt int              `json:"attempt,omitempty"`
	Error   string           `json:"error,omitempty"`
	Report  scheduler.Report `json:"report"`
}

// A Run is a run that ended.
type Run struct {
	Source string    `json:"source"`
	Job    string    `json:"job"`
	Begun  time.Time `json:"begun"`
	Ended  time.Time `json:"ended"`
	entry
}

// Took is how long it ran.
func (r Run) Took() time.Duration { return max(0, r.Ended.Sub(r.Begun)) }

// shorten cuts an error to what is kept of it.
func shorten(text string) string {
	if len(text) <= longestError {
		return text
	}
	return strings.ToValidUTF8(text[:longestError], "") + "…"
}

// Runs returns a job's runs that ended before a time, the latest first, at most limit. A zero time is now.
func (l *Ledger) Runs(ctx context.Context, source, job string, before time.Time, limit int) ([]Run, error) {
	end := "+inf"
	if !before.IsZero() {
		end = "(" + strconv.FormatInt(before.UnixMilli(), 10)
	}
	list, err := l.rdb.ZRevRangeByScoreWithScores(ctx, runsKey(source, job), &redis.ZRangeBy{Min: "-inf", Max: end, Count: int64(limit)}).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the runs of job %s: %w", job, err)
	}
	runs := make([]Run, 0, len(list))
	for _, z := range list {
		member, _ := z.Member.(string)
		begun, text, _ := strings.Cut(member, " ")
		r := Run{Source: source, Job: job, Begun: millis(begun), Ended: time.UnixMilli(int64(z.Score))}
		if err := json.Unmarshal([]byte(text), &r.entry); err != nil {
			return nil, fmt.Errorf("reading a run of job %s: %w", job, err)
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// RunsOf returns the runs of all jobs of a source, those that some scheduler kept within a week, the latest first, at
// most limit.
func (l *Ledger) RunsOf(ctx context.Context, source string, before time.Time, limit int) ([]Run, error) {
	jobs, err := l.rdb.HKeys(ctx, schedulesKey(source)).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the jobs of source %s: %w", source, err)
	}
	var all []Run
	for _, job := range jobs {
		runs, err := l.Runs(ctx, source, job, before, limit)
		if err != nil {
			return nil, err
		}
		all = append(all, runs...)
	}
	slices.SortFunc(all, func(a, b Run) int { return cmp.Or(b.Ended.Compare(a.Ended), cmp.Compare(a.Job, b.Job)) })
	return all[:min(len(all), limit)], nil
}
