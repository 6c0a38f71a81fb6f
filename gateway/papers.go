package gateway

import (
	"bufio"
	"context"
	_ "embed" // the description of the interface
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// openAPI describes the interface, as OpenAPI 3.1.
//
//go:embed openapi.json
var openAPI []byte

// routePapers are what describes and measures the gateway.
func (g *gateway) routePapers(mux *http.ServeMux) {
	description := methods{http.MethodGet: {open: true, read: now(func(context.Context) (any, error) { return finished(openAPI), nil })}}
	g.handle(mux, "/openapi.json", description)
	g.handle(mux, "/api-doc/openapi.json", description)
	g.handle(mux, "/docs", methods{http.MethodGet: {open: true, read: now(func(context.Context) (any, error) { return docsPage() })}})
	if g.Metrics != nil {
		g.handle(mux, "/metrics", methods{http.MethodGet: {read: g.metrics}})
	}
}

// metrics are the gateway's own series.
func (g *gateway) metrics(r *http.Request) (job, error) {
	return light(func(context.Context) (any, error) {
		rec := &recorder{header: http.Header{}}
		plain := r.Clone(r.Context())
		plain.Header.Del("Accept-Encoding") // this handler compresses by itself
		g.Metrics.ServeHTTP(rec, plain)
		return &paper{rec.header.Get("Content-Type"), rec.body}, nil
	})
}

// A recorder keeps another handler's answer.
type recorder struct {
	header http.Header
	body   []byte
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(int)             {}
func (r *recorder) Write(p []byte) (int, error) { r.body = append(r.body, p...); return len(p), nil }

// A paper is an answer of another kind than JSON.
type paper struct {
	media string
	body  []byte
}

func (p *paper) size() int64  { return int64(len(p.body)) }
func (p *paper) kind() string { return p.media }
func (p *paper) write(_ context.Context, w *bufio.Writer) error {
	_, err := w.Write(p.body)
	return err
}

// docsPage lists the operations for people.
func docsPage() (any, error) {
	var d struct {
		Paths map[string]map[string]struct {
			Summary string `json:"summary"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(openAPI, &d); err != nil {
		return nil, fmt.Errorf("reading the description of the interface: %w", err)
	}
	var b strings.Builder
	b.WriteString(`<!doctype html><html lang="en"><meta charset="utf-8"><title>embedfleet</title><h1>embedfleet</h1><p>Machine-readable: <a href="openapi.json">openapi.json</a></p><table>`)
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
			fmt.Fprintf(&b, "<tr><td><code>%s %s</code><td>%s\n", strings.ToUpper(method), html.EscapeString(path), html.EscapeString(d.Paths[path][method].Summary))
		}
	}
	b.WriteString("</table></html>\n")
	return &paper{"text/html; charset=utf-8", []byte(b.String())}, nil
}
