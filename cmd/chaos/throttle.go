package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/samples"
	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	// longText is the size of a long document, in bytes.
	longText = 25_000
	// turn is the time in which a held worker runs once, and stands still for the rest.
	turn = 200 * time.Millisecond
	// wantStored is the part of what was computed that must be stored: what is computed twice was thrown away.
	wantStored = 0.95
)

// throttled has one worker, which gets a part of a core, do long documents, and adds to the report what was computed
// and what was stored.
func (p plan) throttled(ctx context.Context, log *slog.Logger, out io.Writer, r *report) error {
	dir, err := os.MkdirTemp("", "embedfleet-chaos-long-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	p.workers, p.leases = 1, 0
	s, err := p.open(ctx, log, dir)
	if err != nil {
		return err
	}
	defer s.root.Close()
	stopping, stop := context.WithCancel(ctx)
	group, inner := errgroup.WithContext(stopping)
	group.Go(func() error { return s.run(inner) })
	group.Go(func() error {
		defer stop()
		return s.longDocuments(inner, out, r)
	})
	err = group.Wait()
	if errors.Is(err, context.Canceled) && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return err
}

func (s *stage) longDocuments(ctx context.Context, out io.Writer, r *report) error {
	f, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.awaitReady(ctx, f); err != nil {
		return err
	}
	list, err := longTasks(s.long)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d documents of %d kB for a worker with %.2f of a core\n", s.long, longText/1000, s.share)
	before, err := computed(ctx, f)
	if err != nil {
		return err
	}
	if _, err := f.Queue.Enqueue(ctx, list); err != nil {
		return err
	}
	watch, begun := newWatcher(s.log, f, s.deaths), time.Now()
	holding, release := context.WithCancel(ctx)
	defer release()
	var group errgroup.Group
	group.Go(func() error { s.workers[0].hold(holding, s.share); return nil })
	group.Go(func() error { return watch.run(holding) })
	err = s.settle(ctx, f)
	release()
	if err := errors.Join(err, group.Wait()); err != nil {
		return err
	}
	return s.judgeLong(ctx, f, r, watch, before, time.Since(begun))
}

// hold has a worker run for its share of each turn, and stand still for the rest.
func (v *victim) hold(ctx context.Context, share float64) {
	v.mu.Lock()
	proc := v.proc
	v.mu.Unlock()
	if proc == nil {
		return
	}
	runs := time.Duration(share * float64(turn))
	for rest(ctx, runs) == nil {
		_ = proc.Signal(syscall.SIGSTOP)
		_ = rest(ctx, turn-runs)
		_ = proc.Signal(syscall.SIGCONT)
	}
}

// longTasks are documents made of the samples' sentences.
func longTasks(n int) ([]tasks.Task, error) {
	sentences, err := samples.English()
	if err != nil {
		return nil, err
	}
	list := make([]tasks.Task, n)
	for i := range list {
		var b strings.Builder
		for k := i * 7; b.Len() < longText; k++ {
			b.WriteString(sentences[k%len(sentences)].Text + " ")
		}
		doc := vector.Document{ID: fmt.Sprint("long:", i), Text: b.String()[:longText]}
		t, err := tasks.New(alias, tasks.Backfill, doc, nil)
		if err != nil {
			return nil, err
		}
		list[i] = t
	}
	return list, nil
}

// computed is how many tokens the worker has run through its model.
func computed(ctx context.Context, f *fleet.Fleet) (int64, error) {
	list, err := f.Workers.List(ctx)
	if err != nil {
		return 0, err
	}
	if len(list) != 1 {
		return 0, fmt.Errorf("%d workers are registered, want one", len(list))
	}
	return list[0].TokensEver, nil
}

func (s *stage) judgeLong(ctx context.Context, f *fleet.Fleet, r *report, w *watcher, before int64, took time.Duration) error {
	if err := rest(ctx, 3*time.Second); err != nil { // an announcement
		return err
	}
	after, err := computed(ctx, f)
	if err != nil {
		return err
	}
	space, err := f.Store.Space(ctx, alias)
	if err != nil {
		return err
	}
	changes, err := f.Store.Changes(ctx, store.Cursor{Model: alias, Space: space, Limit: s.long + 1})
	if err != nil {
		return err
	}
	stored := 0
	for _, ch := range changes.Items {
		if ch.Record != nil {
			stored += ch.Record.Tokens()
		}
	}
	part := float64(stored) / float64(max(1, after-before))
	r.tell("long documents", "%d of %d kB by a worker with %.2f of a core, in %v", s.long, longText/1000, s.share, took.Round(time.Second))
	r.promise("of these stored", fmt.Sprint(s.long), len(changes.Items) == s.long, "%d", len(changes.Items))
	r.promise("tokens stored / tokens computed", fmt.Sprint("min ", wantStored), part >= wantStored, "%d / %d = %.2f", stored, after-before, part)
	burnt := w.burnt(nil)
	r.zero("retries charged to long documents", burnt.redis+burnt.deadline+burnt.crash, burnt.example)
	return nil
}
