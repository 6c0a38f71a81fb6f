package news

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
)

// loose is a text of JSON that may come as a number, and is "" where it is anything else: feeds number their
// items.
type loose string

// UnmarshalJSON never fails: what is no text costs itself only.
func (l *loose) UnmarshalJSON(b []byte) error {
	var s string
	switch {
	case len(b) > 0 && b[0] == '"' && json.Unmarshal(b, &s) == nil:
		*l = loose(cut(s, maxField))
	case len(b) > 0 && (b[0] == '-' || b[0] >= '0' && b[0] <= '9'):
		*l = loose(b[:min(len(b), 64)])
	}
	return nil
}

// jsonItem is an item of JSON Feed, versions 1 and 1.1.
type jsonItem struct {
	ID          loose `json:"id"`
	URL         loose `json:"url"`
	ExternalURL loose `json:"external_url"`
	Title       loose `json:"title"`
	Summary     loose `json:"summary"`
	ContentText loose `json:"content_text"`
	ContentHTML loose `json:"content_html"`
	Published   loose `json:"date_published"`
	Modified    loose `json:"date_modified"`
}

func (j jsonItem) raw(from *url.URL) rawItem {
	it := rawItem{title: string(j.Title), summary: string(j.Summary), content: string(j.ContentText), guid: string(j.ID)}
	if strings.TrimSpace(it.content) == "" {
		it.content = string(j.ContentHTML)
	}
	it.dates[datePublished], it.dates[dateUpdated] = string(j.Published), string(j.Modified)
	for _, link := range []loose{j.URL, j.ExternalURL} {
		if it.link == "" && link != "" {
			it.link = resolve(from, string(link))
		}
	}
	if _, err := Canonical(it.guid); it.link == "" && err == nil {
		it.link = it.guid
	}
	return it
}

// readJSON reads a JSON Feed item by item, so that one that is cut still gives those before the cut.
func readJSON(body []byte, from *url.URL) (rawFeed, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return rawFeed{}, errors.New("it is JSON, and no object")
	}
	var feed rawFeed
	known := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			break
		}
		known = known || key == "version" || key == "items"
		if key == "items" {
			err = feed.jsonItems(d, from)
		} else {
			var other json.RawMessage
			err = d.Decode(&other)
		}
		if err != nil {
			break
		}
	}
	if !known {
		return rawFeed{}, errors.New("it is JSON without items")
	}
	if t, err := d.Token(); err != nil || t != json.Delim('}') {
		feed.cut = true
	}
	return feed, nil
}

func (f *rawFeed) jsonItems(d *json.Decoder, from *url.URL) error {
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return errors.New("items is no list")
	}
	var it jsonItem // one for all, for a feed of a million empty ones
	for d.More() {
		it = jsonItem{}
		var wrong *json.UnmarshalTypeError
		if err := d.Decode(&it); errors.As(err, &wrong) {
			continue // an item that is no object
		} else if err != nil {
			f.lost++
			return err
		}
		if len(f.items) == maxItems {
			f.more++
			continue
		}
		f.items = append(f.items, it.raw(from))
	}
	_, err := d.Token()
	return err
}
