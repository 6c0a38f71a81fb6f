package searchpage

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/vector"
)

const (
	// drawTimeout bounds one map: reading a store of some 100,000 documents for the first time included.
	drawTimeout = 2 * time.Minute
	// ownColours is how many sources have a colour of their own; the rest are one.
	ownColours = 7
	// titleRunes cuts a title on the map.
	titleRunes = 70
	// extent is the largest coordinate: whole numbers are short in JSON, and finer than any screen.
	extent = 10_000
)

// maps holds the drawn map of each model. [Page.Run] draws them one at a time: when somebody asks, and a drawing that is
// older than opts.MapEvery no longer shows what the store holds.
type maps struct {
	log    *slog.Logger
	open   func(model string) Searcher
	opts   Options
	wanted chan string // models; never closed

	mu    sync.Mutex
	drawn map[string]*drawing
}

// A drawing is one map. It is replaced, never changed, but for checked, failed and asked, which maps.mu guards.
type drawing struct {
	asked   bool      // it waits to be drawn, or is being drawn
	checked time.Time // when it was last compared with the store
	failed  error     // of the last attempt

	space     vector.Space
	last      int64            // change of the store
	at        map[string]point // by document, before scaling
	legend    []string         // sources, most frequent first
	packed    []byte           // the JSON, compressed; nil before the first drawing
	etag      string
	documents int
}

func newMaps(log *slog.Logger, open func(string) Searcher, opts Options) *maps {
	return &maps{log: log, open: open, opts: opts, wanted: make(chan string, 64), drawn: map[string]*drawing{}}
}

// get returns the current drawing of a model and has it looked after if it is old. It never waits.
func (m *maps) get(model string) drawing {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.drawn[model]
	if d == nil {
		d = &drawing{}
		m.drawn[model] = d
	}
	if !d.asked && time.Since(d.checked) >= m.opts.MapEvery {
		select {
		case m.wanted <- model:
			d.asked = true
		default: // so many models wait that this one may ask again
		}
	}
	return *d
}

// sources returns the sources of a model's recent documents, as far as they are known.
func (m *maps) sources(model string) []string {
	names := slices.DeleteFunc(slices.Clone(m.get(model).legend), func(s string) bool { return s == "" })
	slices.Sort(names)
	return names
}

// draw draws a model's map if the store has changed, and keeps the old one if that fails.
func (m *maps) draw(ctx context.Context, model string) {
	ctx, cancel := context.WithTimeout(ctx, drawTimeout)
	defer cancel()
	m.mu.Lock()
	old := *m.drawn[model]
	m.mu.Unlock()
	begun := time.Now()
	next, err := m.redraw(ctx, model, old)
	if err != nil {
		m.log.WarnContext(ctx, "drawing the map failed", "model", model, "err", err)
		next = old
	} else if next.etag != old.etag {
		m.log.DebugContext(ctx, "map drawn", "model", model, "documents", next.documents, "bytes", len(next.packed), "dur", time.Since(begun))
	}
	next.asked, next.checked, next.failed = false, time.Now(), err
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drawn[model] = &next
}

func (m *maps) redraw(ctx context.Context, model string, old drawing) (drawing, error) {
	recent, err := m.open(model).Recent(ctx, m.opts.MapPoints)
	if err != nil {
		return old, err
	}
	if old.packed != nil && old.space == recent.Space && old.last == recent.Last {
		return old, nil
	}
	next := drawing{space: recent.Space, last: recent.Last, documents: recent.Documents}
	sheet, err := next.place(recent, old, m.opts.Zone)
	if err != nil {
		return old, err
	}
	next.etag = fmt.Sprintf(`"%s-%d"`, recent.Space.Short(), recent.Last)
	next.packed, err = pack(sheet)
	return next, err
}

// A sheet is the map as the browser gets it: columns, since each name then is there once. Points are newest first.
type sheet struct {
	Space     string     `json:"space"`
	Documents int        `json:"documents"` // that there are; the newest are drawn
	Explained [2]float64 `json:"explained"` // part of the variance along x and y
	Sources   []source   `json:"sources"`   // those with a colour of their own, and "" for all others if there are any
	X         []int      `json:"x"`         // -10000 to 10000
	Y         []int      `json:"y"`
	Source    []int      `json:"s"` // index into Sources
	Day       []string   `json:"d"` // of publication, or ""
	ID        []string   `json:"id"`
	Title     []string   `json:"t"`
}

// A source is an entry of the legend.
type source struct {
	Name  string `json:"name"`
	Count int    `json:"count"` // on the map
}

// place makes the sheet and remembers in d where each document lies. If the space is still the same the map is
// turned like the old one.
func (d *drawing) place(recent search.Recent, old drawing, zone *time.Location) (sheet, error) {
	s := sheet{Space: recent.Space.Short(), Documents: recent.Documents}
	if len(recent.Places) == 0 {
		return s, nil
	}
	vectors := make([]vector.Vector, len(recent.Places))
	ids := make([]string, len(recent.Places))
	for i, p := range recent.Places {
		vectors[i], ids[i] = p.Vector, p.Document.ID
	}
	plane, err := fitPlane(vectors)
	if err != nil {
		return s, err
	}
	points := make([]point, len(vectors))
	for i, v := range vectors {
		points[i] = plane.project(v)
	}
	if old.space == recent.Space {
		turnTo(points, ids, old.at)
	}
	d.at = make(map[string]point, len(points))
	for i, id := range ids {
		d.at[id] = points[i]
	}
	s.Explained = plane.explained
	s.ID = ids
	d.legend = s.colour(recent)
	s.scale(points)
	for _, p := range recent.Places {
		title := cutRunes(cmp.Or(oneLine(p.Document.Title), oneLine(p.Snippet), p.Document.ID), titleRunes)
		s.Title = append(s.Title, title)
		day := ""
		if at := p.Document.PublishedAt; !at.IsZero() {
			day = at.In(zone).Format(time.DateOnly)
		}
		s.Day = append(s.Day, day)
	}
	return s, nil
}

// colour gives the most frequent sources a colour of their own, and returns all sources, most frequent first.
func (s *sheet) colour(recent search.Recent) []string {
	counts := map[string]int{}
	for _, p := range recent.Places {
		counts[p.Document.Source]++
	}
	names := make([]string, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(counts[b]-counts[a], strings.Compare(a, b)) })
	index := map[string]int{}
	for i, name := range names {
		if i < ownColours || len(names) == ownColours+1 {
			index[name] = len(s.Sources)
			s.Sources = append(s.Sources, source{name, counts[name]})
			continue
		}
		if i == ownColours {
			s.Sources = append(s.Sources, source{Name: "others"})
		}
		index[name] = ownColours
		s.Sources[ownColours].Count += counts[name]
	}
	for _, p := range recent.Places {
		s.Source = append(s.Source, index[p.Document.Source])
	}
	return names
}

// scale makes whole numbers of points, the largest of them extent.
func (s *sheet) scale(points []point) {
	var largest float64
	for _, p := range points {
		largest = max(largest, math.Abs(p.x), math.Abs(p.y))
	}
	if largest == 0 {
		largest = 1
	}
	s.X, s.Y = make([]int, len(points)), make([]int, len(points))
	for i, p := range points {
		s.X[i] = int(math.Round(extent * p.x / largest))
		s.Y[i] = int(math.Round(extent * p.y / largest))
	}
}

func cutRunes(s string, n int) string {
	for at := range s {
		if n == 0 {
			return s[:at] + "…"
		}
		n--
	}
	return s
}

// pack returns a sheet as compressed JSON: a third of its size, and it is written once and sent often.
func pack(s sheet) ([]byte, error) {
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	enc := json.NewEncoder(zip)
	enc.SetEscapeHTML(false) // its type is JSON
	if err := enc.Encode(s); err != nil {
		return nil, fmt.Errorf("writing the map: %w", err)
	}
	if err := zip.Close(); err != nil {
		return nil, fmt.Errorf("compressing the map: %w", err)
	}
	return b.Bytes(), nil
}

// points answers with a model's map: 200 and the sheet, 304 if the browser has it, 202 while the first one is being
// drawn, 503 if that failed.
func (p *Page) points(w http.ResponseWriter, r *http.Request) {
	model := r.URL.Query().Get("model")
	models, err := p.known(r.Context())
	if err == nil && !slices.Contains(models, model) {
		p.sayJSON(w, http.StatusNotFound, "there is no such model")
		return
	}
	if err != nil {
		p.sayJSON(w, http.StatusServiceUnavailable, p.explain(r.Context(), err).Says)
		return
	}
	d := p.maps.get(model)
	switch {
	case d.packed == nil && d.failed != nil:
		p.sayJSON(w, http.StatusServiceUnavailable, p.explain(r.Context(), d.failed).Says)
	case d.packed == nil:
		p.sayJSON(w, http.StatusAccepted, "the map is being drawn")
	default:
		d.send(w, r)
	}
}

// send answers with the sheet. It is kept by the browser, which asks each time whether it still holds.
func (d *drawing) send(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Vary", "Accept-Encoding, Cookie, Authorization")
	h.Set("ETag", d.etag)
	// Always, also with 304: a browser keeps a field of the answer it has that the new one does not replace.
	h.Set("Retry-After", "30")
	if d.asked {
		h.Set("Retry-After", "1") // it may be replaced in a moment
	}
	if r.Header.Get("If-None-Match") == d.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "application/json")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		_, _ = w.Write(d.packed) // the browser went away
		return
	}
	zip, err := gzip.NewReader(bytes.NewReader(d.packed))
	if err == nil {
		_, _ = io.Copy(w, zip) //nolint:gosec // our own packing
	}
}

func (p *Page) sayJSON(w http.ResponseWriter, status int, says string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(map[string]string{"says": says}); err != nil {
		p.log.Debug("answer was not sent", "err", err)
	}
}
