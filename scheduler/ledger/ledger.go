package ledger

import (
	"context"
	_ "embed" // the scripts
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/scheduler"
)

//go:embed claim.lua
var claimSource string

//go:embed renew.lua
var renewSource string

//go:embed finish.lua
var finishSource string

// slotMemory is how long slots are remembered at least; two slots if they are longer.
const slotMemory = 25 * time.Hour

// A Ledger reads and writes by the key schema of this package. It is safe for concurrent use and keeps
// nothing in memory but the digests of its scripts. Errors of Redis come wrapped and are worth a retry.
type Ledger struct {
	rdb                  redis.UniversalClient
	claim, renew, finish *redis.Script
}

// New returns a ledger on client, which stays the caller's to close. It does no I/O.
func New(client redis.UniversalClient) *Ledger {
	return &Ledger{
		rdb:    client,
		claim:  redis.NewScript(claimSource),
		renew:  redis.NewScript(renewSource),
		finish: redis.NewScript(finishSource),
	}
}

// Claim implements [scheduler.Board].
func (l *Ledger) Claim(ctx context.Context, c scheduler.Claim) (scheduler.Grant, error) {
	keys := []string{jobKey(c.Source, c.Job), slotsKey(c.Source, c.Job), leaseKey(c.Source, c.Job), pauseKey(c.Source)}
	byHand := "0"
	if c.ByHand {
		byHand = "1"
	}
	memory := max(slotMemory, 2*c.End.Sub(c.Begin))
	reply, err := l.claim.Run(ctx, l.rdb, keys, scheduler.SlotName(c.Job, c.Begin), c.Begin.UnixMilli(), c.End.UnixMilli(),
		c.Token, scheduler.LeaseTime.Milliseconds(), memory.Milliseconds(), byHand, scheduler.MaxAttempts).Slice()
	if err != nil {
		return scheduler.Grant{}, fmt.Errorf("claiming a slot: %w", err)
	}
	return grant(c, reply)
}

// grant reads what claim.lua returns.
func grant(c scheduler.Claim, reply []any) (scheduler.Grant, error) {
	if len(reply) != 8 {
		return scheduler.Grant{}, fmt.Errorf("claiming a slot: the script returned %d values, want 8", len(reply))
	}
	text := func(i int) string { return fmt.Sprint(reply[i]) }
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(text(i), 10, 64) // the script's own numbers
		return n
	}
	g := scheduler.Grant{
		Claim: c, Answer: scheduler.Answer(text(0)), Now: time.UnixMilli(number(1)), Place: text(2),
		Attempt: int(number(3)), Left: time.Duration(number(5)) * time.Millisecond,
		Same: text(6) == text(2), Why: text(7),
	}
	if last := number(4); last > 0 {
		g.Since = time.UnixMilli(last)
	}
	return g, nil
}

// Renew implements [scheduler.Board].
func (l *Ledger) Renew(ctx context.Context, g scheduler.Grant) error {
	n, err := l.renew.Run(ctx, l.rdb, []string{leaseKey(g.Source, g.Job)}, g.Token, scheduler.LeaseTime.Milliseconds()).Int()
	return kept(n, err, "renewing a slot's lease")
}

// Finish implements [scheduler.Board].
func (l *Ledger) Finish(ctx context.Context, g scheduler.Grant, r scheduler.Result) error {
	report, err := json.Marshal(r.Report)
	if err != nil {
		return fmt.Errorf("encoding a report: %w", err)
	}
	outcome, reason, until, failure := "done", "", int64(0), ""
	if r.Err != nil {
		outcome, failure = "failed", r.Err.Error()
	}
	if r.Pause != nil {
		outcome, reason = "paused", r.Pause.Reason
		if !r.Pause.Until.IsZero() {
			until = r.Pause.Until.UnixMilli()
		}
	}
	if r.Released {
		outcome = "released"
	}
	run, err := json.Marshal(entry{Slot: g.Place, Outcome: outcome, Attempt: g.Attempt, Error: shorten(failure), Report: r.Report})
	if err != nil {
		return fmt.Errorf("encoding a run: %w", err)
	}
	keys := []string{jobKey(g.Source, g.Job), slotsKey(g.Source, g.Job), leaseKey(g.Source, g.Job), pauseKey(g.Source), runsKey(g.Source, g.Job)}
	n, err := l.finish.Run(ctx, l.rdb, keys, g.Token, g.Place, g.Begin.UnixMilli(), outcome, report,
		failure, reason, until, run, History.Milliseconds()).Int()
	return kept(n, err, "ending a slot")
}

func kept(n int, err error, doing string) error {
	if err == nil && n == 0 {
		err = scheduler.ErrLost
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// Pause keeps the jobs of a source from running, at once for what has not begun. A zero until means until
// [Ledger.Resume].
func (l *Ledger) Pause(ctx context.Context, source, reason string, until time.Time) error {
	key, end := pauseKey(source), int64(0)
	if !until.IsZero() {
		end = until.UnixMilli()
	}
	_, err := l.rdb.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.HSet(ctx, key, "reason", reason, "since", time.Now().UnixMilli(), "until", end)
		if end > 0 {
			pipe.PExpireAt(ctx, key, until)
		} else {
			pipe.Persist(ctx, key)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("pausing source %s: %w", source, err)
	}
	return nil
}

// Resume ends a pause, and forgets that a quota was found used up. It reports whether there was a pause.
func (l *Ledger) Resume(ctx context.Context, source string) (bool, error) {
	n, err := l.rdb.Del(ctx, pauseKey(source)).Result()
	if err != nil {
		return false, fmt.Errorf("resuming source %s: %w", source, err)
	}
	return n > 0, nil
}

// A JobState is what is known of a job. Times are zero where nothing of the kind happened.
type JobState struct {
	LastOK   time.Time // the beginning of the last slot that was done
	Ended    time.Time // of the last run, whatever its outcome
	Report   scheduler.Report
	Error    string // of the last run that failed
	ErrorAt  time.Time
	Failures int    // in a row
	Running  string // slot under way or abandoned, "" if none
	Paused   string // the reason, "" if the source runs
	Until    time.Time
}

// Job returns what is known of a job.
func (l *Ledger) Job(ctx context.Context, source, job string) (JobState, error) {
	pipe := l.rdb.Pipeline()
	fields := pipe.HGetAll(ctx, jobKey(source, job))
	pause := pipe.HGetAll(ctx, pauseKey(source))
	if _, err := pipe.Exec(ctx); err != nil {
		return JobState{}, fmt.Errorf("reading the state of job %s: %w", job, err)
	}
	f, p := fields.Val(), pause.Val()
	s := JobState{
		LastOK: millis(f["last_ok"]), Ended: millis(f["ended"]), ErrorAt: millis(f["error_at"]),
		Error: f["error"], Running: f["running"], Paused: p["reason"], Until: millis(p["until"]),
	}
	s.Failures, _ = strconv.Atoi(f["failures"]) // absent is none
	if f["report"] != "" {
		if err := json.Unmarshal([]byte(f["report"]), &s.Report); err != nil {
			return s, fmt.Errorf("reading the report of job %s: %w", job, err)
		}
	}
	return s, nil
}

// millis reads Unix milliseconds; what is absent or 0 is the zero time.
func millis(s string) time.Time {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n == 0 {
		return time.Time{}
	}
	return time.UnixMilli(n)
}

// missing reports whether err only says that there is no such key.
func missing(err error) bool { return errors.Is(err, redis.Nil) }
