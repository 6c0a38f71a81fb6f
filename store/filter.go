package store

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // so that a zone means the same on every machine

	"github.com/embedfleet/embedfleet/vector"
)

// DefaultZone is the time zone of days in filters: that of Korea's disclosures and news.
const DefaultZone = "Asia/Seoul"

// A Filter narrows a search by what producers wrote beside the texts. The zero Filter lets everything
// pass.
type Filter struct {
	// Equal maps a field to the values it may have. All fields must match; of a field's values one must.
	// "id", "source", "stock_code", "title" and "url" are the document's, any other name is one of its Fields. A document
	// without the field does not match.
	Equal map[string][]string
	// From and To bound the time of publication, From included, To excluded. A zero time is no bound;
	// with either, documents without a time of publication do not match.
	From, To time.Time
	// Tests are further conditions, all of which must hold.
	Tests []Test
}

// A Test is a condition on one field.
type Test struct {
	Field string
	Op    string  // "!=", "^=" (begins with), ">=", ">", "<=", "<"
	Value string  // of the first two
	Bound float64 // of the others; a value that is no number does not match
}

// A FilterError says that a filter makes no sense, or that nothing can match it. It is permanent.
type FilterError struct {
	Expr   string // the expression, "" if it is about all of them together
	Detail string
}

func (e *FilterError) Error() string {
	if e.Expr == "" {
		return "filter: " + e.Detail
	}
	return fmt.Sprintf("filter %q: %s", e.Expr, e.Detail)
}

// Permanent marks the error as one that a retry will not mend.
func (e *FilterError) Permanent() bool { return true }

const (
	fieldID        = "id"
	fieldSource    = "source"
	fieldStockCode = "stock_code"
	fieldTitle     = "title"
	fieldURL       = "url"
	fieldPublished = "published_at"
	fieldFrom      = "from"
	fieldTo        = "to"
	fieldPrefix    = "fields." // reaches a field that is called like one of the above
)

// ParseFilter is [ParseFilterIn] with days of [DefaultZone].
func ParseFilter(exprs ...string) (Filter, error) { return ParseFilterIn(DefaultZone, exprs...) }

// ParseFilterIn reads a filter from expressions of a field, an operator and a value:
//
//	source=dart                      equal; named again, one of its values must be there
//	stock_code in 005930,000660      the same in one expression
//	source!=news                     not equal; documents without the field pass
//	title^=[정정]                    begins with
//	amount>=1000                     number of at least; also >, <=, <
//	published_at>=2022-01-03         from the beginning of the day; >, <= and < too, also with times
//	published_at=2022-01-03          on the day
//	published_at=2022-01-03..        a range of days, open at one end or at none
//	from=2022-01-03                  the same as published_at>=
//	to=2022-01-04T15:00:00+09:00     the same as published_at<=, but a time itself is not included
//	fields.source=x                  a field that shadows a name above
//
// All expressions must hold. A date is a whole day in zone (a name as Asia/Seoul or UTC). What can match no document
// is a [*FilterError].
func ParseFilterIn(zone string, exprs ...string) (Filter, error) {
	location, err := time.LoadLocation(cmp.Or(zone, DefaultZone))
	if err != nil || zone == "Local" {
		return Filter{}, &FilterError{"", fmt.Sprintf("there is no time zone %q, want a name as Asia/Seoul or UTC", zone)}
	}
	var f Filter
	for _, e := range exprs {
		if err := f.add(e, location); err != nil {
			return Filter{}, &FilterError{e, err.Error()}
		}
	}
	if !f.From.IsZero() && !f.To.IsZero() && !f.From.Before(f.To) {
		return Filter{}, &FilterError{"", fmt.Sprintf("filter is empty: it begins at %s and ends before %s",
			f.From.Format(time.RFC3339), f.To.Format(time.RFC3339))}
	}
	return f, f.contradiction()
}

// operators are looked for in this order at each byte, so that ">=" is not taken for ">".
var operators = []string{"!=", "^=", ">=", "<=", ">", "<", "=", " in "}

// split returns the parts of an expression: up to the first operator, and from there.
func split(expr string) (field, op, value string, ok bool) {
	for i := range len(expr) {
		for _, op := range operators {
			if strings.HasPrefix(expr[i:], op) {
				return strings.TrimSpace(expr[:i]), strings.TrimSpace(op), strings.TrimSpace(expr[i+len(op):]), true
			}
		}
	}
	return "", "", "", false
}

func (f *Filter) add(expr string, zone *time.Location) error {
	field, op, value, ok := split(expr)
	if !ok || field == "" || value == "" {
		return errors.New("want field=value, such as source=dart or from=2022-01-03; other operators are != ^= >= > <= < and in")
	}
	switch field {
	case fieldFrom, fieldTo:
		if op != "=" {
			return fmt.Errorf("%s takes = only; published_at takes %s", field, op)
		}
		begin, end, err := parseTime(value, zone)
		if field == fieldFrom {
			f.after(begin)
		} else {
			f.before(end)
		}
		return err
	case fieldPublished:
		return f.addTime(op, value, zone)
	}
	switch op {
	case "=", "in":
		if f.Equal == nil {
			f.Equal = make(map[string][]string)
		}
		values := []string{value}
		if op == "in" {
			values = strings.Split(value, ",")
		}
		for _, v := range values {
			if v = strings.TrimSpace(v); v == "" {
				return errors.New("there is an empty value")
			}
			f.Equal[field] = append(f.Equal[field], v)
		}
	case "!=", "^=":
		f.Tests = append(f.Tests, Test{Field: field, Op: op, Value: value})
	default:
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(n) {
			return fmt.Errorf("%s compares numbers, and %q is none; a time of publication is published_at", op, value)
		}
		f.Tests = append(f.Tests, Test{Field: field, Op: op, Bound: n})
	}
	return nil
}

// addTime adds a condition on the time of publication.
func (f *Filter) addTime(op, value string, zone *time.Location) error {
	first, last, ranged := strings.Cut(value, "..")
	if ranged && op != "=" || op == "in" || op == "!=" || op == "^=" {
		return fmt.Errorf("published_at takes =, >=, >, <= and <, a range with = only")
	}
	if ranged && first == "" && last == "" {
		return errors.New("the range has no end at all")
	}
	if !ranged {
		begin, end, err := parseTime(value, zone)
		if err != nil {
			return err
		}
		if op != "<" && op != ">=" && end.Equal(begin) {
			end = end.Add(1) // an instant is a nanosecond long
		}
		switch op {
		case "=":
			f.after(begin)
			f.before(end)
		case ">=":
			f.after(begin)
		case ">":
			f.after(end)
		case "<=":
			f.before(end)
		case "<":
			f.before(begin)
		}
		return nil
	}
	if first != "" {
		begin, _, err := parseTime(first, zone)
		if err != nil {
			return err
		}
		f.after(begin)
	}
	if last != "" {
		_, end, err := parseTime(last, zone)
		if err != nil {
			return err
		}
		f.before(end)
	}
	return nil
}

// after and before narrow the time of publication: of two bounds the narrower counts.
func (f *Filter) after(t time.Time) {
	if f.From.IsZero() || t.After(f.From) {
		f.From = t
	}
}

func (f *Filter) before(t time.Time) {
	if f.To.IsZero() || t.Before(f.To) {
		f.To = t
	}
}

// parseTime returns the stretch that s means: a day in zone, or the nothing between an instant and itself.
func parseTime(s string, zone *time.Location) (from, to time.Time, err error) {
	if t, err := time.ParseInLocation(time.DateOnly, s, zone); err == nil {
		return t, t.AddDate(0, 0, 1), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return from, to, fmt.Errorf("%q is neither a date (2022-01-03) nor a time (2022-01-03T09:00:00+09:00)", s)
	}
	return t, t, nil
}

// contradiction returns an error if no value can pass all tests of a field that has one value.
func (f Filter) contradiction() error {
	low, high := map[string]float64{}, map[string]float64{}
	for _, t := range f.Tests {
		if t.Field == fieldStockCode {
			continue // a document may have several
		}
		if t.Op == "!=" && len(f.Equal[t.Field]) == 1 && f.Equal[t.Field][0] == t.Value {
			return &FilterError{t.Field + t.Op + t.Value, "another expression wants that value"}
		}
		switch t.Op[0] {
		case '>':
			if old, ok := low[t.Field]; !ok || t.Bound > old {
				low[t.Field] = t.Bound
			}
		case '<':
			if old, ok := high[t.Field]; !ok || t.Bound < old {
				high[t.Field] = t.Bound
			}
		}
	}
	for field, n := range low {
		if most, ok := high[field]; ok && n > most {
			return &FilterError{"", fmt.Sprintf("filter is empty: %s is to be %v at least and %v at most", field, n, most)}
		}
	}
	return nil
}

// Fields returns the names of the producers' own fields that a document must have to pass.
func (f Filter) Fields() []string {
	var names []string
	add := func(field string) {
		if _, ok := builtin(&vector.Document{}, field); !ok {
			names = append(names, strings.TrimPrefix(field, fieldPrefix))
		}
	}
	for field := range f.Equal {
		add(field)
	}
	for _, t := range f.Tests {
		add(t.Field)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Match reports whether d passes.
func (f Filter) Match(d *vector.Document) bool {
	if !f.matchTime(d.PublishedAt) {
		return false
	}
	for field, values := range f.Equal {
		if !anyValue(d, field, func(v string) bool { return slices.Contains(values, v) }) {
			return false
		}
	}
	for _, t := range f.Tests {
		if !t.match(d) {
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

func (t Test) match(d *vector.Document) bool {
	switch t.Op {
	case "!=":
		return !anyValue(d, t.Field, func(v string) bool { return v == t.Value })
	case "^=":
		return anyValue(d, t.Field, func(v string) bool { return strings.HasPrefix(v, t.Value) })
	default:
		return anyValue(d, t.Field, func(v string) bool {
			n, err := strconv.ParseFloat(v, 64)
			return err == nil && t.holds(n)
		})
	}
}

func (t Test) holds(n float64) bool {
	switch t.Op {
	case ">=":
		return n >= t.Bound
	case ">":
		return n > t.Bound
	case "<=":
		return n <= t.Bound
	default:
		return n < t.Bound
	}
}

// anyValue reports whether one of d's values of a field satisfies f.
func anyValue(d *vector.Document, field string, f func(string) bool) bool {
	if field == fieldStockCode {
		return slices.ContainsFunc(d.StockCodes, f)
	}
	if v, ok := builtin(d, field); ok {
		return v != "" && f(v)
	}
	v, ok := d.Fields[strings.TrimPrefix(field, fieldPrefix)]
	return ok && f(v)
}

// builtin returns a field that is the document's own; false for one of its producer's.
func builtin(d *vector.Document, field string) (string, bool) {
	switch field {
	case fieldID:
		return d.ID, true
	case fieldSource:
		return d.Source, true
	case fieldTitle:
		return d.Title, true
	case fieldURL:
		return d.URL, true
	case fieldStockCode:
		return "", true
	default:
		return "", false
	}
}
