package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/intake"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

// chunk is how many documents are read before they are sent: several round trips of the client, a few
// megabytes of usual texts.
const chunk = 1000

// patience is how long a document waits for others to travel with: a slow pipe's documents go as they come.
const patience = 100 * time.Millisecond

// An addCommand enqueues documents.
type addCommand struct {
	*app
	own     *boot.Config // settings of this command alone
	file    string
	format  string
	lane    string
	timeout time.Duration
	wait    bool
	limit   time.Duration
	full    string // what to do about a full lane
	pending int
	pendMB  int

	replicas int

	alias  string
	counts counts
	waited []awaited
}

// counts is the summary.
type counts struct {
	Read     int `json:"read"`
	Enqueued int `json:"enqueued"` // new tasks
	Known    int `json:"known"`    // the same task was in the queue's care already
	Bad      int `json:"bad"`      // lines that could not be read or are no valid documents

	// Of those waited for, all of which are in one of these:
	Stored int `json:"stored"` // says the store
	Failed int `json:"failed"` // or cancelled: they will not run again by themselves
	Open   int `json:"open"`   // they wait, run, or could not be asked about
	Lost   int `json:"lost"`   // neither stored nor in the queue

	Unconfirmed int     `json:"unconfirmed"` // enqueued, but fewer replicas than --replicas had them within a second
	Seconds     float64 `json:"seconds"`
}

func (c *addCommand) register(cmd *cobra.Command) {
	c.own = boot.New(cmd.Flags())
	c.own.String(&c.file, "file", "", "a file of documents; - is stdin, which is also the default without texts")
	c.own.Choice(&c.format, "format", string(intake.Auto), intake.Formats, "form of the file; auto goes by its ending")
	c.own.Bool(&c.wait, "wait", "wait until every vector is stored, with progress; also while Redis is away")
	c.own.Duration(&c.limit, "wait-timeout", 0, [2]time.Duration{0, 30 * 24 * time.Hour}, "longest wait; 0 is no limit")
	c.own.Choice(&c.full, "when-full", "wait", []string{"wait", "fail"}, "what to do while a lane, or Redis, has no room")
	c.own.Int(&c.pending, "max-pending", 1_000_000, [2]int{0, 1 << 30}, "documents that may wait in a lane; 0 is no limit")
	c.own.Int(&c.pendMB, "max-pending-mb", 0, [2]int{0, 1 << 20}, "megabytes of tasks that may wait in a lane, by a sample of their sizes; 0 is no limit")
	c.own.Int(&c.replicas, "replicas", 0, [2]int{0, 100}, "replicas of Redis that must have a document within a second; else it is reported as unconfirmed")
	lanes := []string{string(tasks.Live), string(tasks.Backfill), string(tasks.Query)}
	c.own.Choice(&c.lane, "lane", string(tasks.Live), lanes, "lane to enqueue into")
	c.own.Duration(&c.timeout, "task-timeout", 0, [2]time.Duration{0, time.Hour}, "deadline of one task, whole seconds; 0 goes by its size")
	cmd.SuggestionsMinimumDistance = 2
}

func (c *addCommand) run(cmd *cobra.Command, args []string) error {
	ctx, begun := cmd.Context(), time.Now()
	if err := c.own.Resolve(c.getenv); err != nil {
		return err
	}
	if err := mistyped(cmd, args); err != nil {
		return err
	}
	name, items, closer, err := c.source(args)
	if err != nil {
		return err
	}
	defer closer.Close()
	if c.alias, err = c.fleet.Model(ctx, c.model); err != nil {
		return err
	}
	c.fleet.Produce(&queue.ClientOptions{Replicas: c.replicas, Limits: queue.Limits{
		Tasks: int64(c.pending), Queries: int64(c.pending), Bytes: int64(c.pendMB) << 20,
	}})
	err = c.enqueueAll(ctx, name, items)
	switch {
	case c.wait && err == nil:
		err = c.await(ctx)
	case c.wait:
		err = errors.Join(err, newWaiting(c).lastCount(ctx))
	}
	c.counts.Seconds = time.Since(begun).Seconds()
	c.summary() // also of what went half-way: a script wants the count most of all then
	if n := c.counts; err == nil && n.Bad+n.Failed+n.Open+n.Lost+n.Unconfirmed > 0 {
		return errPartly
	}
	return err
}

// mistyped refuses a first text that is almost the name of a command: "serach" would otherwise be embedded.
func mistyped(cmd *cobra.Command, args []string) error {
	if len(args) == 0 || cmd.ArgsLenAtDash() >= 0 {
		return nil
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return boot.Usagef("%q is no command; did you mean %s? To embed it as a text, put -- before it", args[0], strings.Join(near, " or "))
	}
	return nil
}

// source returns the documents to enqueue and what to call where they come from.
func (c *addCommand) source(args []string) (string, iter.Seq[intake.Item], io.Closer, error) {
	if len(args) > 0 {
		if c.file != "" {
			return "", nil, nil, boot.Usagef("texts as arguments and --file %s: want one of them", c.file)
		}
		return "argument", arguments(args), io.NopCloser(nil), nil
	}
	format := intake.Format(c.format)
	if c.file == "" || c.file == "-" {
		if c.file == "" && term.IsTerminal(c.err) && stdinIsTerminal(c.in) {
			return "", nil, nil, boot.Usagef("nothing to enqueue: give texts, --file, or pipe documents in")
		}
		return "stdin", intake.Read(c.in, format), io.NopCloser(nil), nil
	}
	f, err := os.Open(c.file)
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	if err != nil {
		return "", nil, nil, fmt.Errorf("opening %s: %w", c.file, err)
	}
	if format == intake.Auto {
		format = intake.ForFile(c.file)
	}
	return c.file, intake.Read(f, format), f, nil
}

func stdinIsTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func arguments(texts []string) iter.Seq[intake.Item] {
	return func(yield func(intake.Item) bool) {
		for i, text := range texts {
			if !yield(intake.Item{Line: i + 1, Doc: intake.ForText(text)}) {
				return
			}
		}
	}
}

// enqueueAll sends the documents in chunks. A bad line is reported and passed over.
func (c *addCommand) enqueueAll(ctx context.Context, name string, items iter.Seq[intake.Item]) error {
	for group := range intake.Group(ctx, items, chunk, patience) {
		if err := c.enqueueGroup(ctx, name, group); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; what was enqueued stays enqueued")
	}
	return nil
}

func (c *addCommand) enqueueGroup(ctx context.Context, name string, group []intake.Item) error {
	var open []tasks.Task
	var from []intake.Item // beside open
	for _, item := range group {
		c.counts.Read++
		task, err := c.task(item)
		if err != nil {
			c.bad(name, item.Line, err)
			continue
		}
		open, from = append(open, task), append(from, item)
	}
	if len(open) == 0 {
		return nil
	}
	receipts, err := c.send(ctx, open)
	weak := 0
	for i, r := range receipts {
		c.enqueued(name, from[i], open[i], r)
		if r.State.Accepted() && r.Unconfirmed {
			weak++
		}
	}
	if c.counts.Unconfirmed += weak; weak > 0 {
		fmt.Fprintf(c.err, "%d documents are enqueued, but %d replicas did not have them within a second: they may be lost with the master; enqueue them again to be sure\n",
			weak, c.replicas)
	}
	return err
}

// send enqueues, and waits for room or not. Without room and without waiting the documents are reported as
// bad ones, and the error says when to come back.
func (c *addCommand) send(ctx context.Context, open []tasks.Task) ([]queue.Receipt, error) {
	if c.full == "wait" {
		return c.fleet.Queue.EnqueueAll(ctx, open, func(left int, why *queue.FullError) {
			fmt.Fprintf(c.err, "%d documents wait: %v\n", left, why)
		})
	}
	receipts, err := c.fleet.Queue.Enqueue(ctx, open)
	if err != nil {
		return receipts, err
	}
	for _, r := range receipts {
		if r.State == queue.Full {
			return receipts, fmt.Errorf("not all documents were enqueued: %w", r.Err)
		}
	}
	return receipts, nil
}

func (c *addCommand) task(item intake.Item) (tasks.Task, error) {
	if item.Err != nil {
		return tasks.Task{}, item.Err
	}
	return tasks.New(c.alias, tasks.Lane(c.lane), item.Doc, &tasks.Options{Timeout: c.timeout})
}

func (c *addCommand) bad(name string, line int, err error) {
	c.counts.Bad++
	if c.json {
		c.print(map[string]any{"line": line, "error": err.Error(), "code": tasks.Code(err)})
		return
	}
	fmt.Fprintf(c.err, "%s:%d: %v\n", name, line, err)
}

func (c *addCommand) enqueued(name string, item intake.Item, task tasks.Task, r queue.Receipt) {
	switch {
	case r.State == queue.Unknown:
		return // the error of the whole call says it
	case !r.State.Accepted():
		c.bad(name, item.Line, r.Err)
		return
	case r.State == queue.Enqueued:
		c.counts.Enqueued++
	default:
		c.counts.Known++
	}
	if c.wait {
		c.waited = append(c.waited, newAwaited(item, task, r))
	}
	if c.json {
		line := map[string]any{"line": item.Line, "id": item.Doc.ID, "task": r.ID, "lane": r.Lane, "state": r.State}
		if r.Unconfirmed {
			line["unconfirmed"] = true
		}
		c.print(line)
	}
}

func (c *addCommand) summary() {
	if c.json {
		c.print(map[string]any{"summary": c.counts})
		return
	}
	n := c.counts
	fmt.Fprintf(c.out, "%d read, %d enqueued, %d known already, %d bad", n.Read, n.Enqueued, n.Known, n.Bad)
	if c.replicas > 0 {
		fmt.Fprintf(c.out, ", %d unconfirmed", n.Unconfirmed)
	}
	if c.wait {
		fmt.Fprintf(c.out, "; %d stored, %d failed, %d open, %d lost in %.1f s", n.Stored, n.Failed, n.Open, n.Lost, n.Seconds)
	}
	fmt.Fprintln(c.out)
}

// print writes v as one line of JSON. A failure ends nothing: the work itself is done in Redis, and connected
// reports it when that is through.
func (a *app) print(v any) {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil && a.unwritten == nil {
		a.unwritten = fmt.Errorf("writing the answer: %w", err)
	}
}
