package main

import (
	"context"
	"iter"

	"github.com/embedfleet/embedfleet/monitoring"
	"github.com/embedfleet/embedfleet/queue"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// fullEmbedder embeds one text or many.
type fullEmbedder interface {
	tasks.Embedder
	bulkEmbedder
}

type bulkEmbedder interface {
	EmbedDocuments(ctxs []context.Context, texts []string) iter.Seq[[]vector.Embedded]
}

// bulk is what handles many documents at once.
type bulk struct {
	bulkEmbedder
	*storeredis.Store
}

// feltTogether is felt for several tasks.
type feltTogether struct {
	queue.Together
	pulse *monitoring.Pulse
}

func (h feltTogether) HandleAll(ctx context.Context, items []tasks.Item, report func(tasks.Report)) {
	for range items {
		h.pulse.Enter()
	}
	h.Together.HandleAll(ctx, items, func(r tasks.Report) {
		for range len(r.Done) + len(r.Failed) {
			h.pulse.Done()
		}
		for range r.Alone {
			h.pulse.Leave()
		}
		report(r)
	})
}
