// Package searchpage is the page on which an analyst finds documents: a search by a sentence or by a document that
// is stored, with filters, and a map of the recent documents on which the found ones are marked. Everything but the
// map works without scripts, and every state of the page is an address.
//
// It owns the page, the plane the map is drawn on and the way errors are told to people. It knows what a search is
// (package search) and refuses to know queues, models and Redis; who may look is the frame's affair.
package searchpage

import (
	"context"
	"embed"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/frame"
	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
)

//go:embed templates/search.html
var templates embed.FS

//go:embed static
var static embed.FS

// Path is where the page is; the map's points are at Path + "/map".
const Path = "/search"

// modelsFresh is how long a list of models is believed.
const modelsFresh = 5 * time.Second

// Assets are the page's static files, which the frame serves as those of the room "search".
func Assets() fs.FS {
	files, err := fs.Sub(static, "static")
	if err != nil {
		return static // the name is a constant of this file and valid
	}
	return files
}

// A Searcher searches the documents of one alias; search.Service is one.
type Searcher interface {
	Search(ctx context.Context, text string, k int, filter store.Filter) (search.Result, error)
	Like(ctx context.Context, id string, k int, filter store.Filter) (search.Result, error)
	Recent(ctx context.Context, n int) (search.Recent, error)
}

// Parts are what the page works with. All are needed.
type Parts struct {
	Frame  *frame.Frame
	Models func(context.Context) ([]string, error) // the aliases that there are
	Open   func(model string) Searcher             // called once per alias
}

// Options may be nil.
type Options struct {
	Zone *time.Location // of the dates in the form and on the page; by default UTC
	// MapEvery is how often a map that somebody looks at follows the store, by default 15 s.
	MapEvery time.Duration
	// MapPoints is how many documents are on a map at most, the newest; by default 10,000.
	MapPoints int
}

func (o *Options) withDefaults() Options {
	var opts Options
	if o != nil {
		opts = *o
	}
	if opts.Zone == nil {
		opts.Zone = time.UTC
	}
	if opts.MapEvery <= 0 {
		opts.MapEvery = 15 * time.Second
	}
	if opts.MapPoints <= 0 {
		opts.MapPoints = 10_000
	}
	return opts
}

// A Page serves [Path] and the map below it. [Page.Run] draws the maps.
type Page struct {
	log   *slog.Logger
	parts Parts
	opts  Options
	body  *template.Template
	maps  *maps
	stale chan struct{} // the models are to be read anew; never closed

	mu     sync.Mutex // guards the three below
	open   map[string]Searcher
	models []string
	asked  time.Time // when models was read
}

// New returns a page. Its error is that of its template.
func New(log *slog.Logger, parts Parts, opts *Options) (*Page, error) {
	p := &Page{log: log, parts: parts, opts: opts.withDefaults(), open: map[string]Searcher{}, stale: make(chan struct{}, 1)}
	p.maps = newMaps(log, p.searcher, p.opts)
	body, err := parts.Frame.Parse(templates, "templates/search.html")
	p.body = body
	return p, err
}

// Run draws the maps that are asked for and reads the models anew, one thing at a time, until ctx ends.
func (p *Page) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case model := <-p.maps.wanted:
			p.maps.draw(ctx, model)
		case <-p.stale:
			if _, err := p.readModels(ctx); err != nil && ctx.Err() == nil {
				p.log.WarnContext(ctx, "reading the models failed", "err", err)
			}
		}
	}
}

// ServeHTTP answers [Path] and what is below it.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		p.parts.Frame.Refuse(w, r, http.StatusMethodNotAllowed, "A search is an address: it is read, not sent.")
		return
	}
	switch r.URL.Path {
	case Path:
		p.page(w, r)
	case Path + "/map":
		p.points(w, r)
	default:
		p.parts.Frame.Refuse(w, r, http.StatusNotFound, "There is no such page.")
	}
}

// searcher returns the searcher of a model, always the same one.
func (p *Page) searcher(model string) Searcher {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.open[model]
	if !ok {
		s = p.parts.Open(model)
		p.open[model] = s
	}
	return s
}

// known returns the models as they were read last, and has them read anew if that is some seconds ago: a Redis that
// hangs must not make every page wait. Only the first time, with nothing to show yet, the caller waits.
func (p *Page) known(ctx context.Context) ([]string, error) {
	p.mu.Lock()
	models, asked := p.models, p.asked
	p.mu.Unlock()
	if asked.IsZero() {
		return p.readModels(ctx)
	}
	if time.Since(asked) >= modelsFresh {
		select {
		case p.stale <- struct{}{}:
		default: // it is asked for already
		}
	}
	return models, nil
}

func (p *Page) readModels(ctx context.Context) ([]string, error) {
	models, err := p.parts.Models(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.models, p.asked = slices.Clone(models), time.Now()
	return p.models, nil
}

// page shows the form and, if something was asked, what was found.
func (p *Page) page(w http.ResponseWriter, r *http.Request) {
	models, err := p.known(r.Context())
	q, bad := readQuestion(r.URL.Query(), p.opts.Zone)
	v := view{question: q, Models: models}
	switch {
	case err != nil:
		v.Problem = p.explain(r.Context(), err)
	case len(models) == 0:
		v.Problem = &problem{Status: http.StatusOK, Says: "No model is known yet.",
			Do: "Start a worker, or enqueue a document; this page needs nothing else."}
	case q.Model == "":
		v.Model = models[0]
	case !slices.Contains(models, q.Model):
		v.Problem = &problem{Status: http.StatusNotFound, Says: "There is no model " + q.Model + ".", Do: "Search again among those that there are."}
		v.Model = ""
	}
	if v.Problem == nil && bad != nil {
		v.Problem = bad
	}
	if v.Problem == nil {
		v.Sources = p.maps.sources(v.Model)
		if v.Asks() {
			p.answer(w, r, &v)
		}
	}
	p.show(w, r, v)
}

// answer searches and writes what was found, or why nothing was, into v.
func (p *Page) answer(w http.ResponseWriter, r *http.Request, v *view) {
	s := p.searcher(v.Model)
	var (
		result search.Result
		err    error
	)
	if v.Like != "" {
		result, err = s.Like(r.Context(), v.Like, v.K, v.filter)
	} else {
		result, err = s.Search(r.Context(), v.Text, v.K, v.filter)
	}
	if err != nil {
		v.Problem = p.explain(r.Context(), err)
		if v.Problem.After > 0 {
			w.Header().Set("Retry-After", v.Problem.after())
		}
		return
	}
	v.Answer = newAnswer(v.question, result, p.opts.Zone)
}

func (p *Page) show(w http.ResponseWriter, r *http.Request, v view) {
	status := http.StatusOK
	if v.Problem != nil {
		status = v.Problem.Status
	}
	title := "Search"
	if v.Text != "" {
		title = v.Text + " · Search"
	}
	p.parts.Frame.Render(w, r, frame.Page{
		Title: title, Here: Path, Status: status, Body: p.body, Data: v,
		Styles: []string{"search/search.css"}, Scripts: []string{"search/map.js"},
	})
}
