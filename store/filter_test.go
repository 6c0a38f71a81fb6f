package store_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// at is a time on 3 January 2022, UTC.
func at(hour int) time.Time { return time.Date(2022, 1, 3, hour, 0, 0, 0, time.UTC) }

func TestParseFilter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		exprs string // separated by spaces
		want  store.Filter
	}{
		{"", store.Filter{}},
		{"source=dart", store.Filter{Equal: map[string][]string{"source": {"dart"}}}},
		{"a=1 b=x=y a=2", store.Filter{Equal: map[string][]string{"a": {"1", "2"}, "b": {"x=y"}}}},
		{"from=2022-01-03", store.Filter{From: at(0)}},
		{"to=2022-01-02", store.Filter{To: at(0)}}, // the whole day
		{"to=2022-01-03T07:00:00Z", store.Filter{To: at(7)}},
		{"from=2022-01-03 to=2022-01-03", store.Filter{From: at(0), To: at(24)}},
		{"published_at=2022-01-03", store.Filter{From: at(0), To: at(24)}},
		{"published_at=2022-01-03..2022-01-04", store.Filter{From: at(0), To: at(48)}},
		{"published_at=2022-01-03T01:00:00Z..2022-01-03T05:00:00Z", store.Filter{From: at(1), To: at(5)}},
		{"published_at=2022-01-03T01:00:00Z", store.Filter{From: at(1), To: at(1).Add(1)}},
	} {
		got, err := store.ParseFilter(strings.Fields(tt.exprs)...)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("ParseFilter(%s) = %+v, %v, want %+v", tt.exprs, got, err, tt.want)
		}
	}
}

func TestParseFilterErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ exprs, want string }{
		{"dart", `filter "dart": want field=value`},
		{"=dart", "want field=value"},
		{"source=", "want field=value"},
		{"from=yesterday", `"yesterday" is neither a date`},
		{"to=2022-13-01", "neither a date"},
		{"published_at=2022-01-03..", `"" is neither a date`},
		{"from=2022-01-04 to=2022-01-03", "filter is empty: it begins at 2022-01-04T00:00:00Z and ends before 2022-01-04"},
	} {
		_, err := store.ParseFilter(strings.Fields(tt.exprs)...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseFilter(%s): %v, want %q", tt.exprs, err, tt.want)
		}
	}
}

func TestFilterMatch(t *testing.T) {
	t.Parallel()
	doc := vector.Document{
		Source:      "dart",
		PublishedAt: at(9),
		StockCodes:  []string{"005930", "000660"},
		Fields:      map[string]string{"kind": "filing", "source": "a shadow", "empty": ""},
	}
	for exprs, want := range map[string]bool{
		"":                                  true,
		"source=dart":                       true,
		"source=news":                       false,
		"source=news source=dart":           true, // either
		"source=dart kind=news":             false,
		"stock_code=000660":                 true,
		"stock_code=000660 stock_code=1":    true,
		"stock_code=1":                      false,
		"kind=filing stock_code=005930":     true,
		"fields.source=a":                   false,
		"unknown=x":                         false,
		"from=2022-01-03":                   true,
		"from=2022-01-04":                   false,
		"to=2022-01-02":                     false,
		"to=2022-01-03":                     true,
		"from=2022-01-03T18:00:00+09:00":    true, // included
		"to=2022-01-03T18:00:00+09:00":      false,
		"published_at=2022-01-03T09:00:00Z": true,
	} {
		f, err := store.ParseFilter(strings.Fields(exprs)...)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Match(&doc); got != want {
			t.Errorf("%q matches: %v, want %v", exprs, got, want)
		}
	}
	shadow := store.Filter{Equal: map[string][]string{"fields.source": {"a shadow"}}}
	if !shadow.Match(&doc) {
		t.Error("fields.source does not reach the field called source")
	}
	undated := store.Filter{From: at(0)}
	if undated.Match(&vector.Document{}) {
		t.Error("a document without a date passes a filter by date")
	}
}
