package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/scheduler"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

// newRuns shows the history.
func newRuns(a *app) *cobra.Command {
	var n int
	var failed, asJSON bool
	var before string
	cmd := &cobra.Command{
		Use: "runs [SOURCE or JOB]", Short: "list the runs of the last 30 days: what each found, brought, folded and dropped, and why", Args: cobra.MaximumNArgs(1),
	}
	cmd.Flags().IntVarP(&n, "count", "n", 20, "runs, the latest first")
	cmd.Flags().BoolVar(&failed, "failed", false, "those that failed, or of which a part did")
	cmd.Flags().StringVar(&before, "before", "now", "those that ended before a time, Korean unless it names a zone")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, a run a line, with the ids of documents")
	cmd.RunE = a.opened(func(cmd *cobra.Command, args []string) error {
		at, err := parseTime(before)
		if err != nil {
			return err
		}
		if before == "now" {
			at = time.Time{}
		}
		wants := func(r ledger.Run) bool {
			return !failed || r.Outcome == "failed" || r.Outcome == "paused" || r.Report.Failed > 0
		}
		runs, err := a.runs(cmd.Context(), strings.Join(args, ""), at, n, wants)
		if err != nil {
			return err
		}
		if !asJSON {
			return a.runTable(runs)
		}
		for _, r := range runs {
			if err := json.NewEncoder(a.out).Encode(r); err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}

// runs returns the history of a source or a job, of everything if name is "".
func (a *app) runs(ctx context.Context, name string, before time.Time, n int, wants func(ledger.Run) bool) ([]ledger.Run, error) {
	list, err := a.overview(ctx, a.known().jobs)
	if err != nil {
		return nil, err
	}
	var all []ledger.Run
	known := slices.Clone(builtIn)
	for _, s := range list {
		for _, j := range s.Jobs {
			known = append(known, s.Source, j.Job)
			if name != "" && name != s.Source && name != j.Job {
				continue
			}
			runs, err := a.someRuns(ctx, s.Source, j.Job, before, n, wants)
			if err != nil {
				return nil, err
			}
			all = append(all, runs...)
		}
	}
	slices.Sort(known)
	if known = slices.Compact(known); name != "" && !slices.Contains(known, name) {
		return nil, boot.Usagef("%q is neither a source nor a job: there are %s", name, strings.Join(known, ", "))
	}
	slices.SortStableFunc(all, func(a, b ledger.Run) int { return cmp.Or(b.Ended.Compare(a.Ended), cmp.Compare(a.Job, b.Job)) })
	return all[:min(len(all), n)], nil
}

// someRuns reads a job's history in parts until there are enough of the wanted.
func (a *app) someRuns(ctx context.Context, source, job string, before time.Time, n int, wants func(ledger.Run) bool) (wanted []ledger.Run, err error) {
	const part = 500
	for {
		runs, err := a.ledger.Runs(ctx, source, job, before, part)
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			if wants(r) {
				wanted = append(wanted, r)
			}
			if len(wanted) == n {
				return wanted, nil
			}
		}
		if len(runs) < part {
			return wanted, nil
		}
		before = runs[len(runs)-1].Ended
	}
}

func (a *app) runTable(runs []ledger.Run) error {
	rows := make([][]string, len(runs))
	for i, r := range runs {
		rows[i] = []string{
			r.Slot, clock(r.Begun), r.Took().Round(time.Millisecond).String(), r.Outcome, strconv.Itoa(r.Report.Requests), strconv.Itoa(r.Report.Items),
			strconv.Itoa(r.Report.New), strconv.Itoa(r.Report.Updated), strconv.Itoa(r.Report.Repeated), strconv.Itoa(r.Report.Dropped + r.Report.Refused),
			strconv.Itoa(r.Report.Failed), why(r.Report, r.Error),
		}
	}
	head := []string{"slot", "begun", "took", "outcome", "requests", "found", "new", "updated", "folded", "dropped", "failed", "why"}
	return term.Table(a.out, head, []int{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 90}, rows)
}

// why sums up reasons, the most frequent first, and an error.
func why(r scheduler.Report, problem string) string {
	reasons := slices.SortedFunc(maps.Keys(r.Reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Reasons[b], r.Reasons[a]), cmp.Compare(a, b))
	})
	parts := make([]string, 0, len(reasons)+1)
	for _, reason := range reasons {
		parts = append(parts, fmt.Sprintf("%s %d", reason, r.Reasons[reason]))
	}
	if problem != "" {
		parts = append(parts, problem)
	}
	return strings.Join(parts, ", ")
}

// feedTable shows every feed.
func (a *app) feedTable(list []ledger.SourceStatus) error {
	var rows [][]string
	for _, s := range list {
		for _, f := range s.Feeds {
			trouble := f.Error
			switch {
			case trouble != "":
			case f.Moved != "":
				trouble = "it says that it has moved to " + f.Moved
			case f.Cut:
				trouble = "it ends before its end"
			}
			dropped := 0
			for _, n := range f.Dropped {
				dropped += n
			}
			rows = append(rows, []string{f.Name, clock(f.OK), strconv.Itoa(f.Items), strconv.Itoa(dropped), strconv.Itoa(f.Fails), clock(f.Wait), trouble})
		}
	}
	return term.Table(a.out, []string{"feed", "last read", "items", "dropped", "failures", "not before", "trouble"}, []int{0, 0, 0, 0, 0, 0, 80}, rows)
}
