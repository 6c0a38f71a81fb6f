package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/registry"
)

// A fleetCommand is one of `enqueue fleet ...`: which workers it is about and what they are told.
type fleetCommand struct {
	*app
	workers []string
	set     registry.Settings
	timeout time.Duration // of the wait for access
	reset   bool
	wait    time.Duration
	limit   int
}

// newFleet returns `enqueue fleet` with its subcommands.
func newFleet(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "show the workers, change what they run with, drain them",
		Args:  boot.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	list, events := &fleetCommand{app: a}, &fleetCommand{app: a}
	set, drain := &fleetCommand{app: a}, &fleetCommand{app: a}
	eventsCmd := &cobra.Command{Use: "events", Short: "show what changed lately, the latest first", Args: boot.NoArgs, RunE: a.connected(events.events)}
	eventsCmd.Flags().IntVarP(&events.limit, "limit", "n", 30, "how many; there are at most "+strconv.Itoa(registry.MaxEvents))
	cmd.AddCommand(
		&cobra.Command{Use: "list", Short: "show the workers", Args: boot.NoArgs, RunE: a.connected(list.list)},
		eventsCmd, set.setCommand(), drain.drainCommand(),
	)
	return cmd
}

func (c *fleetCommand) setCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set",
		Short: "change running workers: one, all, or those of a model with those to come",
		Long: `What is set by --model is kept for the model's workers that start later. What is set by --worker ends with that
process. A value out of its bounds changes nothing. Of two orders the later one counts, setting by setting.`,
		Example: `  enqueue fleet set --worker all --concurrency 8 --max-access 16 --access-timeout 20s
  enqueue fleet set --model minilm --concurrency 256
  enqueue fleet set --model minilm --reset`,
		Args: boot.NoArgs,
		RunE: c.connected(c.change),
	}
	f := cmd.Flags()
	f.StringSliceVar(&c.workers, "worker", nil, "id, beginning of an id, name or host:pid of a worker; or all")
	f.IntVar(&c.set.Concurrency, "concurrency", 0, fmt.Sprintf("documents leased at once (1 to %d)", registry.MaxConcurrency))
	f.IntVar(&c.set.MaxAccess, "max-access", 0, fmt.Sprintf("texts inside the model at once (1 to %d)", registry.MaxAccess))
	f.DurationVar(&c.timeout, "access-timeout", 0, fmt.Sprintf("longest wait for access (%v to %v)", registry.MinAccessTimeout, registry.MaxAccessTimeout))
	f.BoolVar(&c.reset, "reset", false, "back to what the workers' flags say")
	f.DurationVar(&c.wait, "wait", 10*time.Second, "how long to wait for the workers' answers")
	return cmd
}

func (c *fleetCommand) drainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "let workers finish what they have in hand and end, for good",
		Args:  boot.NoArgs,
		RunE:  c.connected(c.drain),
	}
	cmd.Flags().StringSliceVar(&c.workers, "worker", nil, "id, beginning of an id, name or host:pid of a worker; or all")
	cmd.Flags().DurationVar(&c.wait, "wait", time.Minute, "how long to wait for their end; 0 does not")
	return cmd
}

func (c *fleetCommand) list(cmd *cobra.Command, _ []string) error {
	list, err := c.fleet.Workers.List(cmd.Context())
	if err != nil {
		return err
	}
	if c.model != "" {
		list = slices.DeleteFunc(list, func(w registry.Worker) bool { return w.Model != c.model })
	}
	return c.show(list)
}

// show prints workers as a table or a line of JSON each.
func (c *fleetCommand) show(list []registry.Worker) error {
	if c.json {
		for _, w := range list {
			c.print(w)
		}
		return nil
	}
	if len(list) == 0 {
		fmt.Fprintln(c.out, "no workers")
		return nil
	}
	rows := make([][]string, len(list))
	for i, w := range list {
		state := w.State
		if w.Loading != nil {
			state += ", " + w.Loading.Stage
		}
		rows[i] = []string{
			shortID(w.ID), called(w), w.Model, state, time.Since(w.Since).Round(time.Second).String(), w.Device,
			strconv.Itoa(w.Concurrency), strconv.Itoa(w.MaxAccess), w.AccessTimeout.String(), strconv.Itoa(w.InUse),
			strconv.FormatFloat(w.TokenRate, 'f', 0, 64), strconv.FormatInt(w.Memory.Private>>20, 10), strconv.Itoa(w.Crashes),
			cmp.Or(w.Reason, w.Refused),
		}
	}
	header := []string{"ID", "WORKER", "MODEL", "STATE", "SINCE", "DEVICE", "CONCURRENCY", "ACCESS", "TIMEOUT", "IN USE", "TOKENS/S", "MB", "CRASHES", "WHY"}
	return term.Table(c.out, header, []int{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100}, rows)
}

// shortID is the part of an id that people compare.
func shortID(id string) string { return id[:min(8, len(id))] }

// called is a worker's name for people.
func called(w registry.Worker) string {
	where := w.Host + ":" + strconv.Itoa(w.PID)
	if w.Name == "" {
		return where
	}
	return w.Name + " " + where
}

func (c *fleetCommand) events(cmd *cobra.Command, _ []string) error {
	list, err := c.fleet.Events.List(cmd.Context(), c.limit)
	if err != nil {
		return err
	}
	rows := make([][]string, len(list))
	for i, ev := range list {
		if c.json {
			c.print(ev)
		}
		rows[i] = []string{ev.At.Local().Format(time.DateTime), ev.What, ev.Who, ev.Model, shortID(ev.About), ev.Text}
	}
	if c.json {
		return nil
	}
	return term.Table(c.out, []string{"AT", "WHAT", "WHO", "MODEL", "ABOUT", "MORE"}, []int{0, 0, 40, 0, 0, 100}, rows)
}

// chosen returns the living workers that were named.
func (c *fleetCommand) chosen(ctx context.Context) ([]registry.Worker, error) {
	list, err := c.fleet.Workers.List(ctx)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(w registry.Worker) bool {
		return c.model != "" && w.Model != c.model || w.State == registry.StateFailed
	})
	if slices.Equal(c.workers, []string{"all"}) {
		if len(list) == 0 {
			return nil, errors.New("no worker runs")
		}
		return list, nil
	}
	var out []registry.Worker
	for _, name := range c.workers {
		found := slices.DeleteFunc(slices.Clone(list), func(w registry.Worker) bool {
			return name == "" || !strings.HasPrefix(w.ID, name) && w.Name != name && w.Host+":"+strconv.Itoa(w.PID) != name
		})
		switch len(found) {
		case 0:
			return nil, fmt.Errorf("no worker %q; `enqueue fleet list` shows those there are", name)
		case 1:
			out = append(out, found[0])
		default:
			return nil, fmt.Errorf("%d workers are called %q: say more of the id", len(found), name)
		}
	}
	return out, nil
}

// checkSet reports every value that is out of bounds, before anything is told to anybody. A 0 that somebody
// typed is out of bounds; one that nobody did means "as it is".
func (c *fleetCommand) checkSet(cmd *cobra.Command) error {
	c.set.AccessTimeout = registry.Seconds(c.timeout)
	var problems boot.Problems
	given := 0
	for name, bad := range map[string]error{
		"concurrency":    registry.Settings{Concurrency: c.set.Concurrency}.Check(),
		"max-access":     registry.Settings{MaxAccess: c.set.MaxAccess}.Check(),
		"access-timeout": registry.Settings{AccessTimeout: c.set.AccessTimeout}.Check(),
	} {
		flag := cmd.Flags().Lookup(name)
		if !flag.Changed {
			continue
		}
		given++
		if bad == nil && (flag.Value.String() == "0" || flag.Value.String() == "0s") {
			bad = fmt.Errorf("0 is out of bounds: %s", flag.Usage)
		}
		problems.Add(name, bad)
	}
	switch {
	case len(c.workers) == 0 && c.model == "":
		problems.Addf("worker", "say who: --worker all, --worker ID, or --model ALIAS")
	case given == 0 && !c.reset:
		problems.Addf("concurrency", "nothing to set: give --concurrency, --max-access, --access-timeout, or --reset")
	case given > 0 && c.reset:
		problems.Addf("reset", "either that or values")
	}
	return problems.Err(nil)
}

func (c *fleetCommand) change(cmd *cobra.Command, _ []string) error {
	if err := c.checkSet(cmd); err != nil {
		return err
	}
	ctx := cmd.Context()
	if len(c.workers) == 0 {
		revision, err := c.order(ctx, registry.Target{Model: c.model})
		if err != nil {
			return err
		}
		return c.answers(ctx, revision, func(w registry.Worker) bool { return w.Model == c.model })
	}
	list, err := c.chosen(ctx)
	if err != nil {
		return err
	}
	ids := map[string]bool{}
	var first int64
	for _, w := range list {
		revision, err := c.order(ctx, registry.Target{Worker: w.ID})
		if err != nil {
			return err
		}
		first = cmp.Or(first, revision)
		ids[w.ID] = true
	}
	return c.answers(ctx, first, func(w registry.Worker) bool { return ids[w.ID] })
}

func (c *fleetCommand) order(ctx context.Context, t registry.Target) (int64, error) {
	if c.reset {
		return c.fleet.Control.Reset(ctx, t, c.who())
	}
	return c.fleet.Control.Set(ctx, t, c.set, c.who())
}

// answers waits until all whom it concerns know of the order, shows them, and says who did not take it.
func (c *fleetCommand) answers(ctx context.Context, revision int64, concerns func(registry.Worker) bool) error {
	var list []registry.Worker
	silent := func(w registry.Worker) bool { return w.Revision < revision }
	err := poll(ctx, c.wait, func() (bool, error) {
		all, err := c.fleet.Workers.List(ctx)
		list = slices.DeleteFunc(all, func(w registry.Worker) bool { return !concerns(w) || w.State == registry.StateFailed })
		return !slices.ContainsFunc(list, silent), err
	})
	if err != nil {
		return err
	}
	if len(list) == 0 && !c.json {
		fmt.Fprintf(c.out, "no worker of %s runs; those that start will have it\n", c.model)
		return nil
	}
	if err := c.show(list); err != nil {
		return err
	}
	var errs []error
	for _, w := range list {
		switch {
		case silent(w):
			errs = append(errs, fmt.Errorf("worker %s (%s) did not answer in %v", shortID(w.ID), called(w), c.wait))
		case w.Refused != "":
			errs = append(errs, fmt.Errorf("worker %s (%s) refused: %s", shortID(w.ID), called(w), w.Refused))
		}
	}
	return errors.Join(errs...)
}

func (c *fleetCommand) drain(cmd *cobra.Command, _ []string) error {
	ctx := cmd.Context()
	if len(c.workers) == 0 {
		return boot.Usagef("--worker: say who: all, or ids")
	}
	list, err := c.chosen(ctx)
	if err != nil {
		return err
	}
	for _, w := range list {
		if _, err := c.fleet.Control.Drain(ctx, w.ID, c.who()); err != nil {
			return err
		}
	}
	left := list
	if c.wait > 0 {
		if err := poll(ctx, c.wait, func() (bool, error) {
			all, err := c.fleet.Workers.List(ctx)
			left = slices.DeleteFunc(all, func(w registry.Worker) bool {
				return !slices.ContainsFunc(list, func(v registry.Worker) bool { return v.ID == w.ID })
			})
			return len(left) == 0, err
		}); err != nil {
			return err
		}
	}
	return c.showDrained(list, left)
}

func (c *fleetCommand) showDrained(list, left []registry.Worker) error {
	var errs []error
	for _, w := range list {
		there := slices.ContainsFunc(left, func(v registry.Worker) bool { return v.ID == w.ID })
		state := "ended"
		if there {
			state = "told to drain"
		}
		if there && c.wait > 0 {
			errs = append(errs, fmt.Errorf("worker %s (%s) has not ended in %v; it goes on draining", shortID(w.ID), called(w), c.wait))
		}
		if c.json {
			c.print(map[string]string{"id": w.ID, "state": state})
		} else {
			fmt.Fprintf(c.out, "%s  %s  %s\n", shortID(w.ID), called(w), state)
		}
	}
	return errors.Join(errs...)
}

// poll asks until done, or for so long.
func poll(ctx context.Context, patience time.Duration, ask func() (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		done, err := ask()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}
