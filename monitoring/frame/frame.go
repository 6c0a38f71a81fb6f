package frame

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"

	"github.com/embedfleet/embedfleet/monitoring/login"
)

//go:embed templates
var templates embed.FS

//go:embed static
var static embed.FS

// A Link is an entry of the navigation.
type Link struct {
	Href, Text string
}

// Nav is the navigation of the monitor.
var Nav = []Link{{"/", "Fleet"}, {"/search", "Search"}, {"/queues/", "Queues"}, {"/dead", "Dead letters"}, {"/runbook", "Runbook"}}

// Options are a frame's settings.
type Options struct {
	Logger *slog.Logger
	Nav    []Link // by default [Nav]
	// Assets are the static files of rooms, by the name under which they are served: the file map.js of the room
	// "search" is the asset "search/map.js". The frame's own are under "frame".
	Assets  map[string]fs.FS
	Version string // of the program, for the foot of the page
}

// A Frame shows pages. It implements [login.Screens].
type Frame struct {
	log     *slog.Logger
	nav     []Link
	assets  *assets
	version string
	layout  *template.Template
	signIn  *template.Template
	refuse  *template.Template
}

// New returns a frame; nil options are valid. Its error is a static file that can't be read.
func New(opts *Options) (*Frame, error) {
	if opts == nil {
		opts = &Options{}
	}
	own, err := fs.Sub(static, "static")
	if err != nil {
		return nil, fmt.Errorf("reading the static files: %w", err)
	}
	all := map[string]fs.FS{"frame": own}
	maps.Copy(all, opts.Assets)
	f := &Frame{log: opts.Logger, nav: opts.Nav, version: opts.Version}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.nav == nil {
		f.nav = Nav
	}
	if f.assets, err = readAssets(all); err != nil {
		return nil, err
	}
	f.layout, err = template.New("layout.html").Funcs(Funcs()).Funcs(template.FuncMap{"asset": f.assets.url}).
		ParseFS(templates, "templates/layout.html")
	if err != nil {
		return nil, fmt.Errorf("reading the layout: %w", err)
	}
	if f.signIn, err = f.Parse(templates, "templates/signin.html"); err != nil {
		return nil, err
	}
	f.refuse, err = f.Parse(templates, "templates/refuse.html")
	return f, err
}

// Parse makes a page's template out of files, one of which defines "body". It may use [Funcs] and asset.
func (f *Frame) Parse(files fs.FS, patterns ...string) (*template.Template, error) {
	t, err := f.layout.Clone()
	if err == nil {
		t, err = t.ParseFS(files, patterns...)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the templates %v: %w", patterns, err)
	}
	return t, nil
}

// A Page is what a handler has to show.
type Page struct {
	Title   string
	Here    string             // the entry of the navigation that it belongs to, by its Href
	Status  int                // 200 by default
	Body    *template.Template // of [Frame.Parse]
	Data    any
	Styles  []string // assets, after the frame's own
	Scripts []string // assets; modules
	// Live is the address of the page's server-sent events, see static/live.js; "" if it has none.
	Live string
	// Refresh reloads the page after so many seconds in a browser without scripts; 0 is never.
	Refresh int
}

// A View is what templates are executed with.
type View struct {
	Page
	Caller  login.Caller
	Nav     []Link
	Version string
}

// Render shows a page. What fails in the template becomes a page that says so: nothing is sent before all of it
// is there.
func (f *Frame) Render(w http.ResponseWriter, r *http.Request, p Page) {
	var out bytes.Buffer
	view := View{Page: p, Caller: login.From(r.Context()), Nav: f.nav, Version: f.version}
	if err := p.Body.ExecuteTemplate(&out, "layout.html", view); err != nil {
		f.log.Error("showing a page failed", "path", r.URL.Path, "err", err)
		http.Error(w, "this page could not be shown; the monitor's log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if p.Status != 0 {
		w.WriteHeader(p.Status)
	}
	_, _ = w.Write(out.Bytes()) // the browser went away; nobody is left to tell
}

// SignIn implements [login.Screens].
func (f *Frame) SignIn(w http.ResponseWriter, r *http.Request, form login.Form) {
	status := http.StatusOK
	if form.Wrong != "" {
		status = http.StatusUnauthorized
	}
	if form.Wait > 0 {
		status = http.StatusTooManyRequests
	}
	f.Render(w, r, Page{Title: "Sign in", Status: status, Body: f.signIn, Data: form})
}

// Refuse implements [login.Screens]. It is for every page that has no answer: in a sentence, with what to do.
func (f *Frame) Refuse(w http.ResponseWriter, r *http.Request, status int, why string) {
	f.Render(w, r, Page{Title: http.StatusText(status), Status: status, Body: f.refuse, Data: why})
}

// policy allows what is served from here and nothing inline.
const policy = "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'"

// Headers sets what every answer says to browsers. A handler may say otherwise.
func Headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin") // "no-referrer" would make forms' Origin null
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}
