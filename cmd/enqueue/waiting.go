package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

// A waitingCommand is one of `enqueue cancel`, `move` and `forget`: which waiting texts it is about.
type waitingCommand struct {
	*app
	lanes   []string
	sources []string
	all     bool
	to      string
	force   bool
}

// newCancel returns `enqueue cancel`.
func newCancel(a *app) *cobra.Command {
	c := &waitingCommand{app: a}
	cmd := &cobra.Command{
		Use:   "cancel [ID...]",
		Short: "take waiting texts out of their lanes, by ids of tasks or documents, source and lane",
		Long: `Takes texts that wait out of their lanes: they leave no dead letter, and whoever waits for them learns that they were
cancelled. A text that a worker takes meanwhile ends early if it can.`,
		RunE: a.connected(c.cancel),
	}
	c.filters(cmd)
	return cmd
}

// newMove returns `enqueue move`.
func newMove(a *app) *cobra.Command {
	c := &waitingCommand{app: a}
	cmd := &cobra.Command{
		Use:     "move --to LANE [ID...]",
		Short:   "put waiting texts into another lane, by ids of tasks or documents, source and lane",
		Example: "  enqueue move --to backfill --source news\n  enqueue move --to live 005930-2022-01-03",
		RunE:    a.connected(c.move),
	}
	c.filters(cmd)
	cmd.Flags().StringVar(&c.to, "to", "", "the lane to move to, live or backfill")
	return cmd
}

// newForget returns `enqueue forget`.
func newForget(a *app) *cobra.Command {
	c := &waitingCommand{app: a}
	cmd := &cobra.Command{
		Use:   "forget ALIAS",
		Short: "remove all that the queue holds of an alias: lanes with what waits in them, dead letters, marks",
		Long: `Removes all that the queue holds of an alias. Its documents and vectors stay in the store. It is refused while workers
serve the alias or have its tasks in hand; --force is for tasks that no worker will ever give back.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return boot.Usagef("forget takes one alias, got %d", len(args))
			}
			return nil
		},
		RunE: a.connected(c.forget),
	}
	cmd.Flags().BoolVar(&c.force, "force", false, "also while it is in use")
	return cmd
}

func (c *waitingCommand) filters(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&c.lanes, "lane", nil, "only these lanes; by default live and backfill")
	f.StringSliceVar(&c.sources, "source", nil, "only documents of these sources")
	f.BoolVar(&c.all, "all", false, "without any filter, all")
}

// filter returns what the flags and the ids ask for.
func (c *waitingCommand) filter(what string, ids []string) (queue.Filter, error) {
	f := queue.Filter{Sources: c.sources, IDs: ids}
	for _, name := range c.lanes {
		lane := tasks.Lane(name)
		if !slices.Contains(tasks.Lanes, lane) {
			return f, boot.Usagef("--lane: %q is none of %v", name, tasks.Lanes)
		}
		f.Lanes = append(f.Lanes, lane)
	}
	if len(f.Lanes)+len(f.Sources)+len(f.IDs) == 0 && !c.all {
		return f, boot.Usagef("%s: say which by ids or filters, or --all", what)
	}
	return f, nil
}

func (c *waitingCommand) cancel(cmd *cobra.Command, ids []string) error {
	f, err := c.filter("cancel", ids)
	if err != nil {
		return err
	}
	return c.remove(cmd.Context(), registry.EventCancelled, "cancelled", func(ctx context.Context, alias string, progress func(queue.Removal)) (queue.Removal, error) {
		return c.fleet.Lanes.CancelWaiting(ctx, alias, f, progress)
	})
}

func (c *waitingCommand) move(cmd *cobra.Command, ids []string) error {
	to := tasks.Lane(c.to)
	if to != tasks.Live && to != tasks.Backfill {
		return boot.Usagef("--to: %q is none of %s, %s", c.to, tasks.Live, tasks.Backfill)
	}
	f, err := c.filter("move", ids)
	if err != nil {
		return err
	}
	return c.remove(cmd.Context(), registry.EventMoved, "moved to "+c.to, func(ctx context.Context, alias string, progress func(queue.Removal)) (queue.Removal, error) {
		return c.fleet.Lanes.Move(ctx, alias, f, to, progress)
	})
}

// remove does what do does, says so, and leaves a line of it.
func (c *waitingCommand) remove(ctx context.Context, event, done string, do func(context.Context, string, func(queue.Removal)) (queue.Removal, error)) error {
	alias, err := c.fleet.Model(ctx, c.model)
	if err != nil {
		return err
	}
	r, err := do(ctx, alias, nil)
	if r.Removed+r.Taken > 0 {
		err = errors.Join(err, c.audit(ctx, event, alias, fmt.Sprintf("%d %s", r.Removed, done)))
	}
	if c.json {
		c.print(r)
	} else {
		fmt.Fprintf(c.out, "%d chosen, %d %s, %d taken by workers meanwhile, %d that can't be\n", r.Chosen, r.Removed, done, r.Taken, r.Refused)
	}
	return err
}

func (c *waitingCommand) forget(cmd *cobra.Command, args []string) error {
	alias := args[0]
	if err := tasks.CheckModel(alias); err != nil {
		return boot.Usagef("forget: %w", err)
	}
	forget := c.fleet.Forget
	if c.force {
		forget = c.fleet.Lanes.ForgetInUse
	}
	keys, err := forget(cmd.Context(), alias)
	if keys > 0 {
		err = errors.Join(err, c.audit(cmd.Context(), registry.EventForgotten, alias, strconv.Itoa(keys)+" keys"))
	}
	if errors.Is(err, queue.ErrInUse) {
		return fmt.Errorf("%w; --force forgets it all the same", err)
	}
	if err != nil {
		return err
	}
	if c.json {
		c.print(map[string]any{"alias": alias, "keys": keys})
	} else {
		fmt.Fprintf(c.out, "%s is forgotten, %d keys\n", alias, keys)
	}
	return nil
}
