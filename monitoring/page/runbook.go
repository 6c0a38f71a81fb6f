package page

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"

	"github.com/embedfleet/embedfleet/monitoring/frame"
)

// handbook turns the operator's handbook into HTML. Each heading has an anchor: its words in lower case, joined by
// hyphens, which is what findings and alerts link to. HTML inside of the text is left out.
func handbook(markdown []byte) (template.HTML, error) {
	md := goldmark.New(goldmark.WithExtensions(extension.Table), goldmark.WithParserOptions(parser.WithAutoHeadingID()))
	var out bytes.Buffer
	if err := md.Convert(markdown, &out); err != nil {
		return "", fmt.Errorf("reading the handbook: %w", err)
	}
	return template.HTML(out.String()), nil //nolint:gosec // our own file, out of the binary
}

// showRunbook is the page at /runbook.
func (p *Page) showRunbook(w http.ResponseWriter, r *http.Request) {
	p.parts.Frame.Render(w, r, frame.Page{Title: "Runbook", Here: "/runbook", Body: p.book, Data: p.handbook, Styles: []string{"page/page.css"}})
}
