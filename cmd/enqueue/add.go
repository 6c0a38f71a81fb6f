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
	"slices"
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

// An addCommand enqueues documents.
type addCommand struct {
	*app
	file    string
	format  string
	lane    string
	timeout time.Duration
	wait    bool
	limit   time.Duration

	alias    string
	counts   counts
	receipts []queue.Receipt // of what is waited for
}

// counts is the summary.
type counts struct {
	Read     int     `json:"read"`
	Enqueued int     `json:"enqueued"` // new tasks
	Known    int     `json:"known"`    // the same task was in the queue's care already
	Bad      int     `json:"bad"`      // lines that could not be read or are no valid documents
	Failed   int     `json:"failed"`   // of those waited for
	Seconds  float64 `json:"seconds"`
}

func (c *addCommand) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.file, "file", "", "a file of documents; - is stdin, which is also the default without texts")
	f.StringVar(&c.format, "format", string(intake.Auto), "form of the file ("+strings.Join(intake.Formats, ", ")+"); auto goes by its ending")
	f.BoolVar(&c.wait, "wait", false, "wait until every vector is stored, with progress")
	f.DurationVar(&c.limit, "wait-timeout", 0, "longest wait; 0 is no limit")
	lanes := []string{string(tasks.Live), string(tasks.Backfill), string(tasks.Query)}
	c.config.Choice(&c.lane, "lane", string(tasks.Live), lanes, "lane to enqueue into")
	c.config.Duration(&c.timeout, "task-timeout", 0, [2]time.Duration{0, time.Hour}, "deadline of one task, whole seconds; 0 goes by its size")
}

func (c *addCommand) run(cmd *cobra.Command, args []string) error {
	ctx, begun := cmd.Context(), time.Now()
	if !slices.Contains(intake.Formats, c.format) {
		return boot.Usagef("--format: %q is none of %s", c.format, strings.Join(intake.Formats, ", "))
	}
	name, items, closer, err := c.source(args)
	if err != nil {
		return err
	}
	defer closer.Close()
	if c.alias, err = c.fleet.Model(ctx, c.model); err != nil {
		return err
	}
	if err := c.enqueueAll(ctx, name, items); err != nil {
		return err
	}
	if c.wait {
		if err := c.await(ctx); err != nil {
			return err
		}
	}
	c.counts.Seconds = time.Since(begun).Seconds()
	c.summary()
	if c.counts.Bad+c.counts.Failed > 0 {
		return errPartly
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
	var open []tasks.Task
	var lines []int
	var ids []string
	flush := func() error {
		receipts, err := c.fleet.Queue.Enqueue(ctx, open)
		for i, r := range receipts {
			c.enqueued(name, lines[i], ids[i], r)
		}
		open, lines, ids = open[:0], lines[:0], ids[:0]
		return err
	}
	for item := range items {
		c.counts.Read++
		task, err := c.task(item)
		if err != nil {
			c.bad(name, item.Line, err)
			continue
		}
		open, lines, ids = append(open, task), append(lines, item.Line), append(ids, item.Doc.ID)
		if len(open) == chunk {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if len(open) == 0 {
		return nil
	}
	return flush()
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

func (c *addCommand) enqueued(name string, line int, id string, r queue.Receipt) {
	switch {
	case r.State == queue.Unknown:
		return // the error of the whole call says it
	case !r.State.Accepted():
		c.bad(name, line, r.Err)
		return
	case r.State == queue.Enqueued:
		c.counts.Enqueued++
	default:
		c.counts.Known++
	}
	if c.wait {
		c.receipts = append(c.receipts, r)
	}
	if c.json {
		c.print(map[string]any{"line": line, "id": id, "task": r.ID, "lane": r.Lane, "state": r.State})
	}
}

// await waits for the vectors, with progress on stderr.
func (c *addCommand) await(ctx context.Context) error {
	if c.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.limit)
		defer cancel()
	}
	if len(c.receipts) == 0 {
		return nil
	}
	bar := term.NewProgress(c.err, "embedding", len(c.receipts))
	failures, err := c.fleet.Queue.Wait(ctx, c.receipts, func(p queue.Progress) { bar.Set(p.Done + p.Failed) })
	bar.Done()
	c.counts.Failed = len(failures)
	for _, f := range failures {
		if c.json {
			c.print(map[string]any{"task": f.ID, "lane": f.Lane, "error": f.Cause, "retried": f.Retried})
			continue
		}
		fmt.Fprintf(c.err, "task %s failed: %s\n", f.ID, f.Cause)
	}
	return err
}

func (c *addCommand) summary() {
	if c.json {
		c.print(map[string]any{"summary": c.counts})
		return
	}
	n := c.counts
	fmt.Fprintf(c.out, "%d read, %d enqueued, %d known already, %d bad", n.Read, n.Enqueued, n.Known, n.Bad)
	if c.wait {
		fmt.Fprintf(c.out, "; %d stored, %d failed in %.1f s", len(c.receipts)-n.Failed, n.Failed, n.Seconds)
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
