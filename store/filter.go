package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// A Filter narrows a search by what producers wrote beside the texts. The zero Filter lets everything
// pass.
type Filter struct {
	// Equal maps a field to the values it may have. All fields must match; of a field's values one must.
	// "source" and "stock_code" are the document's, any other name is one of its Fields. A document
	// without the field does not match.
	Equal map[string][]string
	// From and To bound the time of publication, From included, To excluded. A zero time is no bound;
	// with either, documents without a time of publication do not match.
	From, To time.Time
}

const (
	fieldSource    = "source"
	fieldStockCode = "stock_code"
	fieldPublished = "published_at"
	fieldFrom      = "from"
	fieldTo        = "to"
	fieldPrefix    = "fields." // reaches a field that is called like one of the above
)

// ParseFilter reads a filter from expressions of the form "field=value":
//
//	source=dart                      stock_code=005930
//	from=2022-01-03                  to=2022-01-04T15:00:00+09:00
//	published_at=2022-01-03          published_at=2022-01-03..2022-01-07
//	kind=filing                      fields.source=a field that shadows a name above
//
// An expression for a field named before adds a value to it. A date is a whole day in UTC, so "to" with a
// date includes that day; "to" with a time ends right before it.
func ParseFilter(exprs ...string) (Filter, error) {
	var f Filter
	for _, e := range exprs {
		if err := f.add(e); err != nil {
			return Filter{}, fmt.Errorf("filter %q: %w", e, err)
		}
	}
	if !f.From.IsZero() && !f.To.IsZero() && !f.From.Before(f.To) {
		return Filter{}, fmt.Errorf("filter is empty: it begins at %s and ends before %s",
			f.From.Format(time.RFC3339), f.To.Format(time.RFC3339))
	}
	return f, nil
}

func (f *Filter) add(expr string) (err error) {
	field, value, ok := strings.Cut(expr, "=")
	field, value = strings.TrimSpace(field), strings.TrimSpace(value)
	if !ok || field == "" || value == "" {
		return errors.New("want field=value, such as source=dart or from=2022-01-03")
	}
	switch field {
	case fieldFrom:
		f.From, _, err = parseTime(value)
	case fieldTo:
		_, f.To, err = parseTime(value)
	case fieldPublished:
		first, last, ranged := strings.Cut(value, "..")
		if !ranged {
			last = first
		}
		if f.From, _, err = parseTime(first); err == nil {
			_, f.To, err = parseTime(last)
		}
		if !ranged && f.To.Equal(f.From) {
			f.To = f.To.Add(1) // an instant is a nanosecond long
		}
	default:
		if f.Equal == nil {
			f.Equal = make(map[string][]string)
		}
		f.Equal[field] = append(f.Equal[field], value)
	}
	return err
}

// parseTime returns the stretch that s means: a day, or the nothing between an instant and itself.
func parseTime(s string) (from, to time.Time, err error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, t.AddDate(0, 0, 1), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return from, to, fmt.Errorf("%q is neither a date (2022-01-03) nor a time (2022-01-03T09:00:00+09:00)", s)
	}
	return t, t, nil
}

// Match reports whether d passes.
func (f Filter) Match(d *vector.Document) bool {
	if !f.matchTime(d.PublishedAt) {
		return false
	}
	for field, values := range f.Equal {
		if !matchField(d, field, values) {
			return false
		}
	}
	return true
}

func (f Filter) matchTime(t time.Time) bool {
	if f.From.IsZero() && f.To.IsZero() {
		return true
	}
	return !t.IsZero() && !t.Before(f.From) && (f.To.IsZero() || t.Before(f.To))
}

func matchField(d *vector.Document, field string, values []string) bool {
	switch field {
	case fieldSource:
		return slices.Contains(values, d.Source)
	case fieldStockCode:
		return slices.ContainsFunc(d.StockCodes, func(c string) bool { return slices.Contains(values, c) })
	}
	got, ok := d.Fields[strings.TrimPrefix(field, fieldPrefix)]
	return ok && slices.Contains(values, got)
}
