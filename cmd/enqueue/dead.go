package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

// A deadCommand is one of `enqueue dead ...`: which letters it is about.
type deadCommand struct {
	*app
	lanes    []string
	causes   []string
	sources  []string
	older    time.Duration
	younger  time.Duration
	limit    int
	all      bool
	keepText bool
}

// newDead returns `enqueue dead` with its subcommands.
func newDead(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead",
		Short: "show, replay or drop dead letters: tasks that failed for good",
		Long: `Dead letters are tasks that failed for good: bad input, all retries used, or a text that crashes workers. Each is kept
with its cause for 90 days, at most 250,000 in a lane, with its text, since it could not be replayed without; the text
is shown only with --keep-text.`,
		Args: boot.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	list, show := &deadCommand{app: a}, &deadCommand{app: a}
	replay, drop := &deadCommand{app: a}, &deadCommand{app: a}
	listCmd := &cobra.Command{Use: "list [ID...]", Short: "show letters, the latest first, and how many have which cause", RunE: a.connected(list.list)}
	showCmd := &cobra.Command{Use: "show ID", Short: "show all that is known of one, by its task's or its document's id", RunE: a.connected(show.show)}
	replayCmd := &cobra.Command{Use: "replay [ID...]", Short: "enqueue them again where they died, with all their retries", RunE: a.connected(replay.replay)}
	dropCmd := &cobra.Command{Use: "drop [ID...]", Short: "forget them, texts and all", RunE: a.connected(drop.drop)}
	list.filters(listCmd)
	replay.filters(replayCmd)
	drop.filters(dropCmd)
	listCmd.Flags().IntVar(&list.limit, "limit", 50, "how many to show; 0 shows all")
	listCmd.Flags().BoolVar(&list.keepText, "keep-text", false, "keep the texts in the JSON that is printed")
	showCmd.Flags().BoolVar(&show.keepText, "keep-text", false, "show the text too")
	dropCmd.Flags().BoolVar(&drop.all, "all", false, "without any filter, drop all")
	cmd.AddCommand(listCmd, showCmd, replayCmd, dropCmd)
	return cmd
}

func (c *deadCommand) filters(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&c.lanes, "lane", nil, "only these lanes")
	f.StringSliceVar(&c.causes, "cause", nil, "only these causes, as list shows them")
	f.StringSliceVar(&c.sources, "source", nil, "only documents of these sources")
	f.DurationVar(&c.older, "older", 0, "only those that failed longer ago than this")
	f.DurationVar(&c.younger, "younger", 0, "only those that failed within this time")
}

// filter returns what the flags and the ids ask for.
func (c *deadCommand) filter(ids []string) (upkeep.DeadFilter, error) {
	f := upkeep.DeadFilter{Codes: c.causes, Sources: c.sources, IDs: ids}
	for _, name := range c.lanes {
		lane := tasks.Lane(name)
		if !slices.Contains(tasks.Lanes, lane) {
			return f, boot.Usagef("--lane: %q is none of %v", name, tasks.Lanes)
		}
		f.Lanes = append(f.Lanes, lane)
	}
	if c.older < 0 || c.younger < 0 {
		return f, boot.Usagef("--older and --younger: want a time above 0")
	}
	now := time.Now()
	if c.older > 0 {
		f.Before = now.Add(-c.older)
	}
	if c.younger > 0 {
		f.After = now.Add(-c.younger)
	}
	return f, nil
}

// prepare returns the model and the filter of a call.
func (c *deadCommand) prepare(cmd *cobra.Command, ids []string) (alias string, f upkeep.DeadFilter, err error) {
	if f, err = c.filter(ids); err != nil {
		return "", f, err
	}
	alias, err = c.fleet.Model(cmd.Context(), c.model)
	return alias, f, err
}

func (c *deadCommand) list(cmd *cobra.Command, ids []string) error {
	alias, f, err := c.prepare(cmd, ids)
	if err != nil {
		return err
	}
	limit := c.limit
	if limit <= 0 {
		limit = int(^uint(0) >> 1)
	}
	letters, err := c.fleet.Dead.List(cmd.Context(), alias, f, limit)
	if err != nil {
		return err
	}
	causes, err := c.fleet.Dead.Causes(cmd.Context(), alias, f.Lanes...)
	if err != nil {
		return err
	}
	if c.json {
		return c.listJSON(cmd, letters, causes)
	}
	if len(causes) == 0 {
		fmt.Fprintln(c.out, "no dead letters")
		return nil
	}
	return c.listTables(letters, causes)
}

// A shownLetter is a letter with the text that was asked for.
type shownLetter struct {
	upkeep.Letter
	Text string `json:"text,omitempty"`
}

func (c *deadCommand) listJSON(cmd *cobra.Command, letters []upkeep.Letter, causes []upkeep.CauseCount) error {
	for _, l := range letters {
		shown, err := c.withText(cmd, l)
		if err != nil {
			return err
		}
		c.print(shown)
	}
	c.print(map[string]any{"causes": causes})
	return nil
}

func (c *deadCommand) listTables(letters []upkeep.Letter, causes []upkeep.CauseCount) error {
	rows := make([][]string, len(causes))
	for i, n := range causes {
		rows[i] = []string{n.Code, strconv.FormatInt(n.Letters, 10)}
	}
	if err := term.Table(c.out, []string{"CAUSE", "LETTERS"}, []int{0, 0}, rows); err != nil {
		return err
	}
	fmt.Fprintln(c.out)
	rows = make([][]string, len(letters))
	for i, l := range letters {
		rows[i] = []string{l.Last.Local().Format(time.DateTime), string(l.Lane), l.Code, strconv.Itoa(l.Attempts),
			strconv.Itoa(l.Crashes), l.Source, l.Document, l.ID, l.Message}
	}
	header := []string{"LAST FAILURE", "LANE", "CAUSE", "ATTEMPTS", "CRASHES", "SOURCE", "DOCUMENT", "TASK", "MESSAGE"}
	return term.Table(c.out, header, []int{0, 0, 0, 0, 0, 20, 40, 0, 80}, rows)
}

// withText adds the text if it was asked for and can be read.
func (c *deadCommand) withText(cmd *cobra.Command, l upkeep.Letter) (shownLetter, error) {
	shown := shownLetter{Letter: l}
	if !c.keepText {
		return shown, nil
	}
	payload, err := c.fleet.Dead.Payload(cmd.Context(), l)
	if err != nil {
		return shown, err
	}
	if l.Kind == tasks.EmbedQuery {
		p, _ := tasks.DecodeQuery(payload) // one that can't be decoded is dead for just that, and has no text
		shown.Text = p.Text
		return shown, nil
	}
	p, _ := tasks.DecodeDocument(payload)
	shown.Text = p.Document.Text
	return shown, nil
}

func (c *deadCommand) show(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return boot.Usagef("show takes the id of one task or document, got %d", len(args))
	}
	alias, f, err := c.prepare(cmd, args)
	if err != nil {
		return err
	}
	letters, err := c.fleet.Dead.List(cmd.Context(), alias, f, 10)
	if err != nil {
		return err
	}
	if len(letters) == 0 {
		return fmt.Errorf("no dead letter of a task or document %q of model %q", args[0], alias)
	}
	for _, l := range letters {
		shown, err := c.withText(cmd, l)
		if err != nil {
			return err
		}
		if c.json {
			c.print(shown)
		} else {
			c.showLetter(shown)
		}
	}
	return nil
}

func (c *deadCommand) showLetter(l shownLetter) {
	for _, line := range [][2]string{
		{"task", l.ID}, {"kind", string(l.Kind)}, {"model", l.Model}, {"lane", string(l.Lane)},
		{"document", l.Document}, {"source", l.Source}, {"cause", l.Code}, {"message", l.Message},
		{"first", l.First.Local().Format(time.RFC3339)}, {"last", l.Last.Local().Format(time.RFC3339)},
		{"attempts", strconv.Itoa(l.Attempts)}, {"crashes", strconv.Itoa(l.Crashes)}, {"worker", l.Worker}, {"text", l.Text},
	} {
		if line[1] != "" {
			fmt.Fprintf(c.out, "%-10s %s\n", line[0], term.Cut(line[1], 0))
		}
	}
	fmt.Fprintln(c.out)
}

func (c *deadCommand) replay(cmd *cobra.Command, ids []string) error {
	alias, f, err := c.prepare(cmd, ids)
	if err != nil {
		return err
	}
	var bar *term.Progress
	r, err := c.fleet.Dead.Replay(cmd.Context(), alias, f, func(r upkeep.Revival) {
		if bar == nil {
			bar = term.NewProgress(c.err, "replaying", r.Chosen)
		}
		bar.Set(r.Replayed + r.Attached + r.Unreadable + r.Gone)
	})
	if bar != nil {
		bar.Done()
	}
	if r.Replayed > 0 {
		err = errors.Join(err, c.audit(cmd.Context(), registry.EventReplayed, alias, fmt.Sprintf("%d of %d chosen", r.Replayed, r.Chosen)))
	}
	if err != nil {
		return err
	}
	if c.json {
		c.print(r)
	} else {
		fmt.Fprintf(c.out, "%d chosen, %d replayed, %d waiting or running already, %d that can't be read, %d gone meanwhile\n",
			r.Chosen, r.Replayed, r.Attached, r.Unreadable, r.Gone)
	}
	if r.Unreadable > 0 {
		return errPartly
	}
	return nil
}

func (c *deadCommand) drop(cmd *cobra.Command, ids []string) error {
	alias, f, err := c.prepare(cmd, ids)
	if err != nil {
		return err
	}
	narrowed := len(f.Lanes)+len(f.Codes)+len(f.Sources)+len(f.IDs) > 0 || !f.After.IsZero() || !f.Before.IsZero()
	if !narrowed && !c.all {
		return boot.Usagef("drop: say which by ids or filters, or --all")
	}
	n, err := c.fleet.Dead.Drop(cmd.Context(), alias, f)
	if n > 0 {
		err = errors.Join(err, c.audit(cmd.Context(), registry.EventDropped, alias, strconv.Itoa(n)))
	}
	if err != nil {
		return err
	}
	if c.json {
		c.print(map[string]int{"dropped": n})
	} else {
		fmt.Fprintf(c.out, "%d dropped\n", n)
	}
	return nil
}
