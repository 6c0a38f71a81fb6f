package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// A line is one row of the report; without a bound it is only told.
type line struct {
	what, value, bound string
	broken             bool
}

// A report is what a run came to.
type report struct{ lines []line }

func (r *report) tell(what, format string, args ...any) {
	r.lines = append(r.lines, line{what: what, value: fmt.Sprintf(format, args...)})
}

func (r *report) promise(what, bound string, kept bool, format string, args ...any) {
	r.lines = append(r.lines, line{what, fmt.Sprintf(format, args...), bound, !kept})
}

// zero is a promise that nothing of a kind happened; example, which may be empty, is shown if it did.
func (r *report) zero(what string, n int, example string) {
	value := fmt.Sprint(n)
	if n != 0 && example != "" {
		value += ", e.g. " + example
	}
	r.promise(what, "0", n == 0, "%s", value)
}

func (r *report) broken() bool {
	return slices.ContainsFunc(r.lines, func(l line) bool { return l.broken })
}

func (r *report) print(out io.Writer) error {
	rows := make([][]string, len(r.lines))
	for i, l := range r.lines {
		verdict := ""
		switch {
		case l.broken:
			verdict = "BROKEN"
		case l.bound != "":
			verdict = "kept"
		}
		rows[i] = []string{l.what, l.value, l.bound, verdict}
	}
	fmt.Fprintln(out)
	return term.Table(out, []string{"WHAT", "VALUE", "BOUND", ""}, []int{0, 100, 0, 0}, rows)
}

// report asks queue and store what became of every text.
func (s *stage) report(ctx context.Context, f *fleet.Fleet, p *producer, w *watcher, took time.Duration) (*report, error) {
	letters, err := f.Dead.List(ctx, alias, upkeep.DeadFilter{}, len(p.docs)+len(s.traps))
	if err != nil {
		return nil, err
	}
	lanes, err := f.Lanes.Status(ctx, alias)
	if err != nil {
		return nil, err
	}
	stored, err := readStore(ctx, f)
	if err != nil {
		return nil, err
	}
	r := &report{}
	s.tellDeaths(r, p, lanes, took)
	p.account(r, stored, letters)
	s.judgeTraps(r, stored, letters)
	traps := map[string]bool{}
	for _, t := range s.traps {
		task, err := tasks.New(alias, tasks.Live, t.document(), nil)
		if err != nil {
			return nil, err
		}
		traps[task.ID] = true
	}
	burnt := w.burnt(traps)
	r.tell("retries burnt while Redis was away", "%d", burnt.redis)
	r.tell("retries burnt by deadlines", "%d", burnt.deadline)
	r.zero("retries burnt by crashes", burnt.crash, burnt.example)
	median, longest, n := w.times()
	r.tell("texts taken back from dead workers", "%d", n)
	r.promise("recovery after a worker's death", "max "+s.bound.String(), longest <= s.bound && n > 0, "p50 %.1f s, max %.1f s",
		median.Seconds(), longest.Seconds())
	findings, err := f.Fsck(ctx, &upkeep.FsckOptions{Models: []string{alias}})
	if err != nil {
		return nil, err
	}
	r.zero("inconsistencies that fsck finds", len(findings), fmt.Sprint(findings))
	return r, nil
}

// tellDeaths tells what the run was exposed to.
func (s *stage) tellDeaths(r *report, p *producer, lanes []queue.LaneStatus, took time.Duration) {
	deaths, kills := 0, 0
	for _, v := range s.workers {
		d, k := v.counts()
		deaths, kills = deaths+d, kills+k
	}
	_, redisKills := s.redis.counts()
	r.tell("duration", "%v, %d workers", took.Round(time.Second), len(s.workers))
	r.tell("workers that died", "%d, %d of them by kill -9 from outside", deaths, kills)
	r.promise("Redis killed and restarted", fmt.Sprint(s.redisKills), redisKills == s.redisKills, "%d, appendfsync %s", redisKills, s.fsync)
	r.tell("enqueue calls without an answer", "%d, repeated", p.failures)
	r.tell("accepted, lost by Redis, handed in again", "%d", p.again)
	for _, l := range lanes {
		if l.Lane == tasks.Quarantine {
			r.tell("runs in quarantine", "%d", l.Processed)
		}
	}
}

// A shelf is what the store holds.
type shelf struct {
	hashes map[string]string // text hash by document
	twice  int               // documents that the log of changes names twice
	bad    []string          // documents whose vectors can't be read
	stats  store.Stats
}

// readStore reads every document with its vectors.
func readStore(ctx context.Context, f *fleet.Fleet) (*shelf, error) {
	space, err := f.Store.Space(ctx, alias)
	if err != nil {
		return nil, err
	}
	all, err := f.Store.Stats(ctx, alias)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("the store has vectors of %d spaces, want one", len(all))
	}
	s := &shelf{hashes: map[string]string{}, stats: all[space]}
	cursor := store.Cursor{Model: alias, Space: space, Limit: 500}
	for {
		changes, err := f.Store.Changes(ctx, cursor)
		if err != nil {
			return nil, err
		}
		if len(changes.Items) == 0 {
			return s, nil
		}
		for _, ch := range changes.Items {
			s.add(ch)
		}
		cursor.Seq = changes.Items[len(changes.Items)-1].Seq
	}
}

func (s *shelf) add(ch store.Change) {
	if _, known := s.hashes[ch.ID]; known {
		s.twice++
	}
	if err := readable(ch); err != nil {
		s.bad = append(s.bad, fmt.Sprintf("%s: %v", ch.ID, err))
		return
	}
	s.hashes[ch.ID] = ch.Record.TextHash
}

// readable says what is wrong with a document of a single chunk.
func readable(ch store.Change) error {
	switch {
	case ch.Err != nil:
		return ch.Err
	case ch.Record == nil:
		return errors.New("it has no record")
	case len(ch.Record.Chunks) != 1:
		return fmt.Errorf("it has %d chunks, want 1", len(ch.Record.Chunks))
	}
	v := ch.Record.Chunks[0].Vector
	return v.CheckUnit(len(v))
}

// account compares what the producer handed in with what is stored and what is dead.
func (p *producer) account(r *report, s *shelf, letters []upkeep.Letter) {
	dead := map[string]string{}
	for _, l := range letters {
		dead[l.Document] = l.Code
	}
	stored, lost, wrong := 0, []string{}, []string{}
	for i, doc := range p.docs {
		hash, ok := s.hashes[doc.ID]
		switch {
		case ok && hash == vector.TextHash(doc.Text):
			stored++
			if dead[doc.ID] != "" {
				wrong = append(wrong, doc.ID+" stored and "+dead[doc.ID])
			}
		case dead[doc.ID] != "":
			wrong = append(wrong, doc.ID+" "+dead[doc.ID])
		case p.accepted[i].IsZero():
			lost = append(lost, doc.ID+" was never accepted")
		default:
			lost = append(lost, doc.ID)
		}
	}
	r.tell("good texts enqueued", "%d", len(p.docs))
	r.promise("stored, readable, of the right text", fmt.Sprint(len(p.docs)), stored == len(p.docs), "%d", stored)
	r.zero("lost", len(lost), first(lost))
	r.zero("good texts that are dead", len(wrong), first(wrong))
	r.zero("vectors that can't be read", len(s.bad), first(s.bad))
	r.zero("duplicate vectors", s.twice+int(s.stats.TextsTotal-s.stats.Documents),
		fmt.Sprintf("%d texts written for %d documents", s.stats.TextsTotal, s.stats.Documents))
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// judgeTraps compares the verdicts with what they must be.
func (s *stage) judgeTraps(r *report, stored *shelf, letters []upkeep.Letter) {
	causes := map[string]int{}
	for _, l := range letters {
		causes[l.Code]++
	}
	var words []string
	for _, code := range slices.Sorted(maps.Keys(causes)) {
		words = append(words, fmt.Sprintf("%s %d", code, causes[code]))
	}
	r.promise("dead, by cause", fmt.Sprint(len(s.traps)), len(letters) == len(s.traps), "%d: %s", len(letters), strings.Join(words, ", "))
	for _, t := range s.traps {
		verdict, ok := t.judge(letters)
		if _, there := stored.hashes[t.document().ID]; there {
			verdict, ok = "stored", false
		}
		r.promise("verdict on the text: "+t.name, fmt.Sprintf("%s in %s", t.code, t.lane), ok, "%s", verdict)
	}
}
