package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/cmd/internal/term"
	"github.com/embedfleet/embedfleet/gateway"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
)

// newSearch returns `enqueue search`.
func newSearch(a *app) *cobra.Command {
	var (
		k       int
		filters []string
		zone    string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "search TEXT",
		Short: "show the documents nearest to a text",
		Long: `Shows the documents nearest to a text, by the cosine of their vectors. A worker must be running.

Filters: source=dart, stock_code=005930, from=2022-01-03, to=2022-01-04, published_at=2022-01-03..2022-01-07, or any
of the documents' own fields. Two filters of one field mean either, of two fields both.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return boot.Usagef("search takes one text, got %d; quote a text with spaces", len(args))
			}
			return nil
		},
		RunE: a.connected(func(cmd *cobra.Command, args []string) error {
			if k < 1 || k > store.MaxK {
				return boot.Usagef("-k: %d is not between 1 and %d", k, store.MaxK)
			}
			filter, err := store.ParseFilterIn(zone, filters...)
			if err != nil {
				return boot.Usagef("--filter: %w", err)
			}
			alias, err := a.fleet.Model(cmd.Context(), a.model)
			if err != nil {
				return err
			}
			service := a.fleet.Search(a.log.Logger(a.err), alias, &search.Options{Timeout: timeout})
			result, err := service.Search(cmd.Context(), args[0], k, filter)
			if err != nil {
				return err
			}
			if answer := gateway.NewSearchAnswer(result); a.json {
				a.print(answer)
			} else if err := term.Hits(a.out, answer.Hits); err != nil {
				return err
			}
			return nil
		}),
	}
	cmd.Flags().IntVarP(&k, "limit", "k", 5, "how many documents to show (1 to "+strconv.Itoa(store.MaxK)+")")
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "field=value; also != ^= >= > <= < and in; may be repeated")
	cmd.Flags().StringVar(&zone, "zone", store.DefaultZone, "time zone of days in filters")
	cmd.Flags().DurationVar(&timeout, "timeout", search.DefaultTimeout, "longest wait for a worker, whole seconds")
	return cmd
}

// newStatus returns `enqueue status`.
func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show the lanes, the workers and what is stored",
		Args:  boot.NoArgs,
		RunE: a.connected(func(cmd *cobra.Command, _ []string) error {
			status, err := a.fleet.Status(cmd.Context(), a.model)
			if err != nil {
				return err
			}
			if a.json {
				a.print(status)
				return nil
			}
			return a.showStatus(status)
		}),
	}
}

func (a *app) showStatus(s fleet.Status) error {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	var lanes, workers, spaces [][]string
	for _, l := range s.Lanes {
		state := "open"
		if l.Paused {
			state = "paused"
		}
		lanes = append(lanes, []string{
			l.Model, string(l.Lane), number(l.Pending), number(l.Active), number(l.Retry), number(l.Scheduled), number(l.Dead),
			fmt.Sprintf("%.1f s", l.OldestSeconds), state,
		})
	}
	for _, w := range s.Workers {
		names := make([]string, len(w.Lanes))
		for i, lane := range w.Lanes {
			names[i] = string(lane)
		}
		workers = append(workers, []string{
			w.Host + ":" + strconv.Itoa(w.PID), w.Model, w.State, time.Since(w.Since).Round(time.Second).String(), w.Space.Short(),
			strings.Join(names, ","), strconv.Itoa(w.Concurrency),
		})
	}
	for _, sp := range s.Spaces {
		state := "old"
		if sp.Current {
			state = "current"
		}
		spaces = append(spaces, []string{sp.Model, sp.Space.Short(), state, number(sp.Documents), number(sp.Chunks), number(sp.Tokens)})
	}
	for _, t := range []struct {
		none   string
		header []string
		rows   [][]string
	}{
		{"no lanes yet", []string{"MODEL", "LANE", "PENDING", "ACTIVE", "RETRY", "SCHEDULED", "DEAD", "OLDEST", "STATE"}, lanes},
		{"no workers", []string{"WORKER", "MODEL", "STATE", "SINCE", "SPACE", "LANES", "CONCURRENCY"}, workers},
		{"nothing stored", []string{"MODEL", "SPACE", "STATE", "DOCUMENTS", "CHUNKS", "TOKENS"}, spaces},
	} {
		if len(t.rows) == 0 {
			fmt.Fprintln(a.out, t.none)
		} else if err := term.Table(a.out, t.header, make([]int, len(t.header)), t.rows); err != nil {
			return err
		}
		fmt.Fprintln(a.out)
	}
	return nil
}

// newGet returns `enqueue get`.
func newGet(a *app) *cobra.Command {
	var vectors bool
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "show what the store holds of a document",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return boot.Usagef("get takes one document id, got %d", len(args))
			}
			return nil
		},
		RunE: a.connected(func(cmd *cobra.Command, args []string) error {
			alias, err := a.fleet.Model(cmd.Context(), a.model)
			if err != nil {
				return err
			}
			rec, err := a.fleet.Documents(alias).Get(cmd.Context(), args[0])
			if errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("no document %q of model %q is stored", args[0], alias)
			}
			if err != nil {
				return err
			}
			answer := gateway.NewDocumentAnswer(rec)
			if !vectors {
				answer = answer.WithoutVectors()
			}
			if a.json {
				a.print(answer)
				return nil
			}
			a.showDocument(answer)
			return nil
		}),
	}
	cmd.Flags().BoolVar(&vectors, "vectors", false, "show the vectors' values too")
	return cmd
}

func (a *app) showDocument(d gateway.DocumentAnswer) {
	show := func(name, value string) {
		if value != "" {
			fmt.Fprintf(a.out, "%-10s %s\n", name, term.Cut(value, 0))
		}
	}
	show("id", d.Document.ID)
	show("title", d.Document.Title)
	show("source", d.Document.Source)
	show("url", d.Document.URL)
	if !d.Document.PublishedAt.IsZero() {
		show("published", d.Document.PublishedAt.Format(time.RFC3339))
	}
	show("stocks", strings.Join(d.Document.StockCodes, " "))
	show("model", d.Model)
	show("space", d.Space)
	show("version", strconv.FormatInt(d.Version, 10))
	show("text", term.Cut(d.Document.Text, 400))
	for i, c := range d.Chunks {
		show("chunk "+strconv.Itoa(i), fmt.Sprintf("bytes %d-%d, %d tokens, %d dimensions", c.Start, c.End, c.Tokens, c.Dim))
		if len(c.Vector) > 0 {
			fmt.Fprintln(a.out, c.Vector)
		}
	}
}
