package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// The faults of the store; the queue has its own.
const (
	damaged    upkeep.Fault = "no_vectors"  // a document whose record can't be read, or has none
	otherSpace upkeep.Fault = "other_space" // vectors that can't be compared with the alias's new ones
)

// newFsck returns `enqueue fsck`.
func newFsck(a *app) *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "look for everything that crashes may leave behind in queue and store, and repair it",
		Long: `Looks for tasks without a list, a lease or a message, locks and archives that nobody needs, dead letters that do not
add up, documents without vectors and vectors of another space. --repair mends what can be mended without losing
anything; it may run as often as wanted, while the fleet works. Documents of another space are enqueued again into
the backfill lane. The status is 1 if something is left.`,
		Args: boot.NoArgs,
		RunE: a.connected(func(cmd *cobra.Command, _ []string) error { return a.fsck(cmd.Context(), repair) }),
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "mend what is found")
	return cmd
}

func (a *app) fsck(ctx context.Context, repair bool) error {
	opts := &upkeep.FsckOptions{Repair: repair}
	models, err := a.fleet.Lanes.Models(ctx)
	if err != nil {
		return err
	}
	if a.model != "" {
		opts.Models, models = []string{a.model}, []string{a.model}
	}
	findings, err := a.fleet.Fsck(ctx, opts)
	if err != nil {
		return err
	}
	for _, model := range models {
		check := storeCheck{app: a, model: model, repair: repair}
		more, err := check.run(ctx)
		if err != nil {
			return err
		}
		findings = append(findings, more...)
	}
	return a.showFindings(findings)
}

func (a *app) showFindings(findings []upkeep.Finding) error {
	left := 0
	var rows [][]string
	for _, f := range findings {
		left += max(0, f.Count-f.Repaired)
		if a.json {
			a.print(f)
			continue
		}
		rows = append(rows, []string{string(f.Fault), f.Model, string(f.Lane), strconv.Itoa(f.Count), strconv.Itoa(f.Repaired),
			strings.Join(f.Examples, " ")})
	}
	switch {
	case a.json:
	case len(rows) == 0:
		fmt.Fprintln(a.out, "nothing found")
	default:
		header := []string{"FAULT", "MODEL", "LANE", "FOUND", "REPAIRED", "FOR EXAMPLE"}
		if err := term.Table(a.out, header, []int{0, 0, 0, 0, 0, 100}, rows); err != nil {
			return err
		}
	}
	if left > 0 {
		return errPartly
	}
	return nil
}

// A storeCheck looks at the documents of one model.
type storeCheck struct {
	*app
	model    string
	repair   bool
	findings []upkeep.Finding
}

func (c *storeCheck) run(ctx context.Context) ([]upkeep.Finding, error) {
	current, err := c.fleet.Store.Space(ctx, c.model)
	if err != nil {
		return nil, err
	}
	counts, err := c.fleet.Store.Stats(ctx, c.model)
	if err != nil {
		return nil, err
	}
	// Damaged documents show in a reading of any space.
	if err := c.readDamaged(ctx, current); err != nil {
		return nil, err
	}
	for space, n := range counts {
		if space == current || n.Documents == 0 {
			continue
		}
		if err := c.readOther(ctx, space); err != nil {
			return nil, err
		}
	}
	return c.findings, nil
}

// readDamaged reports documents without vectors. Their producer has to send them again.
func (c *storeCheck) readDamaged(ctx context.Context, space vector.Space) error {
	f := upkeep.Finding{Fault: damaged, Model: c.model, Lane: "store"}
	err := c.each(ctx, space, func(page []store.Change) error {
		for _, ch := range page {
			if ch.Err != nil {
				note(&f, ch.ID)
			}
		}
		return nil
	})
	if f.Count > 0 {
		c.findings = append(c.findings, f)
	}
	return err
}

// readOther reports documents of another space. The store has their texts, so they can be embedded again.
func (c *storeCheck) readOther(ctx context.Context, space vector.Space) error {
	f := upkeep.Finding{Fault: otherSpace, Model: c.model, Lane: "store"}
	err := c.each(ctx, space, func(page []store.Change) error {
		var list []tasks.Task
		for _, ch := range page {
			if ch.Record == nil {
				continue
			}
			note(&f, ch.ID)
			doc := ch.Record.Document
			doc.ID = ch.ID
			t, err := tasks.New(c.model, tasks.Backfill, doc, &tasks.Options{Version: ch.Record.Version})
			if err == nil { // else it is not what a producer may send any more, and is only reported
				list = append(list, t)
			}
		}
		if !c.repair {
			return nil
		}
		receipts, err := c.fleet.Queue.EnqueueAll(ctx, list, nil)
		for _, r := range receipts {
			if r.State.Accepted() {
				f.Repaired++
			}
		}
		return err
	})
	if f.Count > 0 {
		c.findings = append(c.findings, f)
	}
	return err
}

// each reads all documents, a page at a time; of other spaces than the one named only the ids.
func (c *storeCheck) each(ctx context.Context, space vector.Space, yield func([]store.Change) error) error {
	cursor := store.Cursor{Model: c.model, Space: space, Limit: 500}
	for {
		changes, err := c.fleet.Store.Changes(ctx, cursor)
		if err != nil || len(changes.Items) == 0 {
			return err
		}
		if err := yield(changes.Items); err != nil {
			return err
		}
		cursor.Seq = changes.Items[len(changes.Items)-1].Seq
	}
}

// note counts one more, and names the first few.
func note(f *upkeep.Finding, id string) {
	if f.Count++; len(f.Examples) < 3 {
		f.Examples = append(f.Examples, id)
	}
}
