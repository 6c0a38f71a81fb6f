package page

import (
	"context"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/fleet"
	"github.com/embedfleet/embedfleet/monitoring/frame"
	"github.com/embedfleet/embedfleet/queue/upkeep"
)

//go:embed templates
var templates embed.FS

//go:embed static
var static embed.FS

// Assets are the static files, to be served by the frame as "page".
func Assets() fs.FS {
	files, err := fs.Sub(static, "static")
	if err != nil {
		return embed.FS{} // the name is a constant
	}
	return files
}

// A Fleet is what is shown; *fleet.Collector is one.
type Fleet interface {
	// Snapshot never waits. The channel is closed when there is a newer one.
	Snapshot() (*fleet.Snapshot, <-chan struct{})
}

// Letters are the dead letters; *upkeep.Dead is one.
type Letters interface {
	List(ctx context.Context, model string, f upkeep.DeadFilter, limit int) ([]upkeep.Letter, error)
}

// Controls do what an operator asks for.
type Controls interface {
	// Do carries an order out and says in a sentence what came of it. progress may be called meanwhile. An
	// order may be carried out twice; each of them is harmless then.
	Do(ctx context.Context, o Order, progress func(string)) (said string, err error)
}

// Parts are what a page is made of.
type Parts struct {
	Frame     *frame.Frame
	Fleet     Fleet
	Letters   Letters
	Histories Histories
	Waiting   Waiting
	Controls  Controls
}

// Options are a page's settings.
type Options struct {
	Logger *slog.Logger
	// Handbook is the operator's handbook in Markdown, shown at /runbook. Findings link to its headings.
	Handbook []byte
	// Observe is told of each order that was carried out: its Do, and "done" or "failed". It may be nil.
	Observe func(order, outcome string)
}

// A Page serves the fleet. Its orders are carried out by Run.
type Page struct {
	log      *slog.Logger
	parts    Parts
	handbook template.HTML
	orders   *orders
	cache    cache
	fleet    *template.Template
	act      *template.Template
	dead     *template.Template
	history  *template.Template
	book     *template.Template
}

// New returns a page; nil options are valid.
func New(parts Parts, opts *Options) (*Page, error) {
	if opts == nil {
		opts = &Options{}
	}
	p := &Page{log: opts.Logger, parts: parts}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.orders = newOrders(p.log, parts.Controls)
	if opts.Observe != nil {
		p.orders.observe = opts.Observe
	}
	var err error
	if p.handbook, err = handbook(opts.Handbook); err != nil {
		return nil, err
	}
	for name, t := range map[string]**template.Template{"fleet": &p.fleet, "act": &p.act, "dead": &p.dead, "runs": &p.history, "runbook": &p.book} {
		if *t, err = parts.Frame.Parse(templates, "templates/"+name+".html", "templates/shared.html"); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Run carries out orders until ctx ends, then returns nil. What is under way then is given up; each order may be
// repeated.
func (p *Page) Run(ctx context.Context) error { return p.orders.run(ctx) }

// Routes mounts the page. What changes something goes through operator, which lets only those through who may.
func (p *Page) Routes(mux *http.ServeMux, operator func(http.Handler) http.Handler) {
	mux.HandleFunc("GET /{$}", p.showFleet)
	mux.HandleFunc("GET /live", p.live)
	mux.HandleFunc("GET /dead", p.showDead)
	mux.HandleFunc("GET /runs", p.showRuns)
	mux.HandleFunc("GET /runbook", p.showRunbook)
	mux.Handle("GET /act", operator(http.HandlerFunc(p.confirm)))
	mux.Handle("POST /act", operator(http.HandlerFunc(p.do)))
}

// showFleet is the page at /.
func (p *Page) showFleet(w http.ResponseWriter, r *http.Request) {
	look := lookOf(r)
	s, _ := p.parts.Fleet.Snapshot()
	p.parts.Frame.Render(w, r, frame.Page{
		Title: fleet.Judge(s, time.Now()).Headline, Here: "/", Body: p.fleet, Data: p.view(s, look, time.Now()),
		Styles: []string{"page/page.css"}, Scripts: []string{"page/page.js"}, Live: "/live?" + look.query(), Refresh: 10,
	})
}

// A look is what of the fleet somebody wants to see. It is part of the address, so that it needs no script.
type look struct {
	can  bool // act
	idle bool // lanes in which nothing happens, too
	all  bool // rows beyond what fits
}

func (l look) query() string {
	q := ""
	if l.idle {
		q += "idle=show&"
	}
	if l.all {
		q += "all=show&"
	}
	return q
}

// execute runs one template of the fleet page.
func (p *Page) execute(w *buffer, name string, data any) error {
	if err := p.fleet.ExecuteTemplate(w, name, data); err != nil {
		return fmt.Errorf("showing %s: %w", name, err)
	}
	return nil
}
