package main

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/cmd/internal/fleet"
	"github.com/embedfleet/embedfleet/monitoring/searchpage"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
)

// snippetBytes is what the search page shows of a text: three lines.
const snippetBytes = 600

// searchFlags are the settings of the search page.
type searchFlags struct {
	timeout time.Duration
	points  int
}

func (f *searchFlags) register(c *boot.Config) {
	c.Duration(&f.timeout, "search-timeout", 10*time.Second, [2]time.Duration{time.Second, time.Minute}, "how long a search waits for a worker")
	c.Int(&f.points, "map-points", 10_000, [2]int{100, 50_000}, "newest documents on the map")
}

// mountSearch puts the search page behind the login.
func (a *app) mountSearch(inner *http.ServeMux) error {
	view := fleet.New(a.rdb)
	page, err := searchpage.New(a.log, searchpage.Parts{
		Frame: a.frame,
		Models: func(ctx context.Context) ([]string, error) {
			models, err := view.Lanes.Models(ctx)
			models = append(models, a.cfg.models...)
			slices.Sort(models)
			return slices.Compact(models), err
		},
		Open: func(model string) searchpage.Searcher {
			return view.Search(a.log, model, &search.Options{
				Timeout: a.cfg.search.timeout, Index: &store.IndexOptions{SnippetBytes: snippetBytes},
			})
		},
	}, &searchpage.Options{Zone: time.Local, MapPoints: a.cfg.search.points}) //nolint:gosmopolitan // as frame.Clock
	if err != nil {
		return err
	}
	a.beside = append(a.beside, page.Run)
	inner.Handle(searchpage.Path, page)
	inner.Handle(searchpage.Path+"/", page)
	return nil
}
