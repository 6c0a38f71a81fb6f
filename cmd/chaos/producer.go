package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/samples"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	// A producer sends this many texts at a time.
	sendAtOnce = 50
	// textBytes is how long a text is: long enough that workers are busy when they die, and one chunk of the
	// model's 256 tokens.
	textBytes = 600
	// doubtful is how long before a Redis died its answers are doubted. With appendfsync everysec Redis itself
	// says one second, two when the disk is slow.
	doubtful = 5 * time.Second
)

// A producer hands texts in and keeps its own books, as one must whose Redis may lose its last second: what
// was accepted shortly before Redis died is looked up afterwards, and handed in again if it is nowhere.
type producer struct {
	log   *slog.Logger
	fleet *fleet.Fleet
	docs  []vector.Document
	tasks []tasks.Task // beside docs

	mu       sync.Mutex
	accepted []time.Time // beside docs; zero: not yet
	failures int         // calls that Redis did not answer
	again    int         // texts that were accepted and gone, and were handed in again
}

// newProducer makes n distinct texts of one chunk each.
func newProducer(log *slog.Logger, f *fleet.Fleet, n int) (*producer, error) {
	list, err := samples.English()
	if err != nil {
		return nil, err
	}
	p := &producer{log: log, fleet: f, accepted: make([]time.Time, n)}
	for i := range n {
		text := fmt.Sprintf("%d.", i)
		for j := i; len(text) < textBytes; j++ {
			text += " " + list[j%len(list)].Text
		}
		doc := vector.Document{ID: fmt.Sprintf("d%05d", i), Text: strings.ToValidUTF8(text[:textBytes], "")}
		task, err := tasks.New(alias, tasks.Live, doc, nil)
		if err != nil {
			return nil, err
		}
		p.docs, p.tasks = append(p.docs, doc), append(p.tasks, task)
	}
	return p, nil
}

// send hands all texts in, evenly spread over a time. While Redis is away it repeats itself: ids decide what
// was there already.
func (p *producer) send(ctx context.Context, over time.Duration) error {
	calls := (len(p.tasks) + sendAtOnce - 1) / sendAtOnce
	pause, from := over/time.Duration(max(1, calls)), 0
	for part := range slices.Chunk(p.tasks, sendAtOnce) {
		for {
			receipts, err := p.fleet.Queue.Enqueue(ctx, part)
			p.note(from, receipts, err)
			if err == nil {
				break
			}
			p.log.Info("enqueuing failed, trying again", "err", err)
			if err := rest(ctx, 200*time.Millisecond); err != nil {
				return err
			}
		}
		from += len(part)
		if err := rest(ctx, pause); err != nil {
			return err
		}
	}
	return nil
}

// note takes down when what was accepted.
func (p *producer) note(from int, receipts []queue.Receipt, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.failures++
	}
	for i, r := range receipts {
		if r.State.Accepted() {
			p.accepted[from+i] = time.Now()
		}
	}
}

// check looks up what was accepted shortly before a moment at which Redis died, and hands in again what is
// nowhere.
func (p *producer) check(ctx context.Context, died time.Time) error {
	p.mu.Lock()
	var ids []string
	var list []tasks.Task
	for i, at := range p.accepted {
		if !at.IsZero() && at.After(died.Add(-doubtful)) && at.Before(died.Add(time.Second)) {
			ids, list = append(ids, p.docs[i].ID), append(list, p.tasks[i])
		}
	}
	p.mu.Unlock()
	var receipts []queue.Receipt
	err := persist(ctx, func() error {
		hashes, err := p.fleet.Store.TextHashes(ctx, alias, ids)
		if err != nil {
			return err
		}
		var missing []tasks.Task
		for i, hash := range hashes {
			if hash == "" {
				missing = append(missing, list[i])
			}
		}
		receipts, err = p.fleet.Queue.Enqueue(ctx, missing)
		return err
	})
	if err != nil {
		return fmt.Errorf("looking up what Redis may have lost: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range receipts {
		if r.State == queue.Enqueued {
			p.again++
		}
	}
	p.log.Info("producer looked up what Redis may have lost", "doubtful", len(list), "again", p.again)
	return nil
}

// persist repeats f until it works.
func persist(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || rest(ctx, 100*time.Millisecond) != nil {
			return err
		}
	}
}

// trap hands the bad texts in.
func (s *stage) trap(ctx context.Context) error {
	rdb := s.conn.Client()
	defer rdb.Close()
	client := queue.NewClient(rdb, &queue.ClientOptions{MaxRetry: trapRetries})
	for _, t := range s.traps {
		opts := &tasks.Options{}
		if t.code == upkeep.CodeTimeout {
			opts.Timeout = trapTimeout
		}
		task, err := tasks.New(alias, tasks.Live, t.document(), opts)
		if err != nil {
			return err
		}
		if err := persist(ctx, func() error { _, err := client.Enqueue(ctx, []tasks.Task{task}); return err }); err != nil {
			return fmt.Errorf("enqueuing a bad text: %w", err)
		}
	}
	return nil
}
