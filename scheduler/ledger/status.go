package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/scheduler"
)

const (
	// AnnounceEvery is how often a scheduler says which jobs it keeps, at most.
	AnnounceEvery = time.Minute
	// announced is how long a job is taken to be kept after it was last said to be.
	announced = 3 * AnnounceEvery
	// forgotten jobs are not shown any more.
	forgotten = 7 * 24 * time.Hour
)

// A SourceStatus is everything that is known of one source, in JSON form.
type SourceStatus struct {
	Source      string    `json:"source"`
	Paused      string    `json:"paused,omitempty"` // the reason, "" if the source runs
	PausedSince time.Time `json:"paused_since,omitzero"`
	PausedUntil time.Time `json:"paused_until,omitzero"` // zero: until somebody resumes it
	Jobs        []Job     `json:"jobs"`                  // by name
	Freshness   Freshness `json:"freshness"`             // zero for a source that shares another's memory
	Feeds       []Feed    `json:"feeds,omitempty"`       // by name
}

// Failing returns the feeds whose last request failed.
func (s SourceStatus) Failing() (list []Feed) {
	for _, f := range s.Feeds {
		if f.Fails > 0 {
			list = append(list, f)
		}
	}
	return list
}

// A Job is a job's timetable and what became of its runs. Times are zero where nothing of the kind happened.
type Job struct {
	Job      string           `json:"job"`
	Cron     []string         `json:"cron"`
	Reason   string           `json:"reason"`           // why then, for people
	Kept     bool             `json:"kept"`             // by a scheduler that lives
	Next     time.Time        `json:"next,omitzero"`    // beginning of the next slot
	LastSlot time.Time        `json:"last_ok,omitzero"` // beginning of the last slot that was done
	Ended    time.Time        `json:"ended,omitzero"`   // of the last run, whatever its outcome
	Report   scheduler.Report `json:"report"`           // of the last run
	Running  string           `json:"running,omitempty"`
	Failures int              `json:"failures,omitempty"` // in a row
	Error    string           `json:"error,omitempty"`    // of the last run that failed
	ErrorAt  time.Time        `json:"error_at,omitzero"`
}

// A Freshness is how fast a source's documents can be searched, in seconds from their event, by the last 1024
// of them, and how many are on their way.
type Freshness struct {
	Documents int     `json:"documents"`
	P50       float64 `json:"p50"`
	P95       float64 `json:"p95"`
	P99       float64 `json:"p99"`
	Awaited   int64   `json:"awaited"`
	Oldest    float64 `json:"oldest"` // age of the oldest of them, 0 if there is none
}

// A Feed is what is remembered of a feed.
type Feed struct {
	Name  string    `json:"name"`
	OK    time.Time `json:"ok,omitzero"` // last answer that could be read
	Items int       `json:"items"`       // in it
	Fails int       `json:"fails,omitempty"`
	Since time.Time `json:"since,omitzero"` // when the failing began
	Error string    `json:"error,omitempty"`
	Wait  time.Time `json:"wait,omitzero"`   // it is not asked before
	Moved string    `json:"moved,omitempty"` // it says that it is at this address now
	Cut   bool      `json:"cut,omitempty"`   // its last answer ended before its end

	Dropped map[string]int `json:"dropped,omitempty"` // items of its last answer, by reason
}

// An announcement is a schedule as it is kept in Redis.
type announcement struct {
	scheduler.Schedule
	At time.Time // when a scheduler last said that it keeps it
}

// Announce says which jobs a scheduler keeps, so that [Ledger.Status] shows them to readers that know none.
func (l *Ledger) Announce(ctx context.Context, jobs []scheduler.Schedule) error {
	if len(jobs) == 0 {
		return nil
	}
	now := time.Now()
	_, err := l.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, j := range jobs {
			text, err := json.Marshal(announcement{j, now})
			if err != nil {
				return err
			}
			pipe.HSet(ctx, schedulesKey(j.Source), j.Job, text)
			pipe.ZAdd(ctx, sourcesKey, redis.Z{Score: float64(now.Unix()), Member: j.Source})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("announcing %d jobs: %w", len(jobs), err)
	}
	return nil
}

// Withdraw says that jobs are not kept any more, by anybody: they are not shown as missing then. Their history stays.
func (l *Ledger) Withdraw(ctx context.Context, jobs []scheduler.Schedule) error {
	for _, j := range jobs {
		key := schedulesKey(j.Source)
		if err := l.rdb.HDel(ctx, key, j.Job).Err(); err != nil {
			return fmt.Errorf("withdrawing job %s: %w", j.Job, err)
		}
		left, err := l.rdb.HLen(ctx, key).Result()
		if err == nil && left == 0 {
			err = l.rdb.ZRem(ctx, sourcesKey, j.Source).Err()
		}
		if err != nil {
			return fmt.Errorf("withdrawing job %s: %w", j.Job, err)
		}
	}
	return nil
}

// Status returns what is known of every source that a scheduler kept in the last week, and of the sources of
// the given schedules, sorted by name. It reads two round trips per source.
func (l *Ledger) Status(ctx context.Context, also ...scheduler.Schedule) ([]SourceStatus, error) {
	since := time.Now().Add(-forgotten).Unix()
	names, err := l.rdb.ZRangeByScore(ctx, sourcesKey, &redis.ZRangeBy{Min: fmt.Sprint(since), Max: "+inf"}).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the crawled sources: %w", err)
	}
	for _, s := range also {
		names = append(names, s.Source)
	}
	slices.Sort(names)
	list := []SourceStatus{}
	for _, name := range slices.Compact(names) {
		s, err := l.source(ctx, name, also)
		if err != nil {
			return nil, fmt.Errorf("reading the state of source %s: %w", name, err)
		}
		list = append(list, s)
	}
	return list, nil
}

func (l *Ledger) source(ctx context.Context, name string, also []scheduler.Schedule) (SourceStatus, error) {
	page := l.Source(name, 0)
	pipe := l.rdb.Pipeline()
	pause, schedules, feeds := pipe.HGetAll(ctx, pauseKey(name)), pipe.HGetAll(ctx, schedulesKey(name)), pipe.HGetAll(ctx, feedsKey(name))
	if _, err := pipe.Exec(ctx); err != nil {
		return SourceStatus{}, err
	}
	p := pause.Val()
	s := SourceStatus{Source: name, Paused: p["reason"], PausedSince: millis(p["since"]), PausedUntil: millis(p["until"]), Jobs: []Job{}}
	for name, text := range feeds.Val() {
		s.Feeds = append(s.Feeds, feed(name, text))
	}
	slices.SortFunc(s.Feeds, func(a, b Feed) int { return cmp.Compare(a.Name, b.Name) })
	known, err := timetables(name, schedules.Val(), also)
	if err != nil {
		return s, err
	}
	for _, job := range slices.Sorted(maps.Keys(known)) {
		j, err := l.job(ctx, known[job])
		if err != nil {
			return s, err
		}
		s.Jobs = append(s.Jobs, j)
	}
	s.Freshness, err = page.freshness(ctx)
	return s, err
}

// feed reads what the news room keeps of a feed. What can't be read is shown as a failure; the crawler begins
// anew with it.
func feed(name, text string) Feed {
	f := Feed{Name: name}
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return Feed{Name: name, Fails: 1, Error: "what is remembered of it is unreadable"}
	}
	return f
}

// timetables returns a source's jobs, those that the caller gives and those that were announced.
func timetables(source string, said map[string]string, also []scheduler.Schedule) (map[string]announcement, error) {
	known := map[string]announcement{}
	for _, s := range also {
		if s.Source == source {
			known[s.Job] = announcement{Schedule: s}
		}
	}
	for job, text := range said {
		var a announcement
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			return nil, fmt.Errorf("reading the schedule of job %s: %w", job, err)
		}
		if given, ok := known[job]; ok {
			a.Schedule = given.Schedule
		} else if time.Since(a.At) > forgotten {
			continue
		}
		known[job] = a
	}
	return known, nil
}

func (l *Ledger) job(ctx context.Context, a announcement) (Job, error) {
	state, err := l.Job(ctx, a.Source, a.Job)
	if err != nil {
		return Job{}, err
	}
	j := Job{
		Job: a.Job, Cron: a.Cron, Reason: a.Reason, Kept: time.Since(a.At) < announced,
		LastSlot: state.LastOK, Ended: state.Ended, Report: state.Report, Running: state.Running,
		Failures: state.Failures, Error: state.Error, ErrorAt: state.ErrorAt,
	}
	next, err := a.Next(time.Now(), 1)
	if len(next) > 0 {
		j.Next = next[0]
	}
	return j, err
}

func (s *Source) freshness(ctx context.Context) (Freshness, error) {
	l, err := s.Latency(ctx)
	if err != nil {
		return Freshness{}, err
	}
	n, oldest, err := s.Awaited(ctx)
	f := Freshness{Documents: l.Documents, P50: l.P50.Seconds(), P95: l.P95.Seconds(), P99: l.P99.Seconds(), Awaited: n}
	if !oldest.IsZero() {
		f.Oldest = max(0, time.Since(oldest)).Seconds()
	}
	return f, err
}
