package store_test

import (
	"errors"
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
		{"published_at=2022-01-03..", store.Filter{From: at(0)}},
		{"published_at=..2022-01-03", store.Filter{To: at(24)}},
		{"published_at>=2022-01-03", store.Filter{From: at(0)}},
		{"published_at>2022-01-02", store.Filter{From: at(0)}},
		{"published_at<=2022-01-03", store.Filter{To: at(24)}},
		{"published_at<2022-01-04", store.Filter{To: at(24)}},
		{"published_at>2022-01-03T01:00:00Z", store.Filter{From: at(1).Add(1)}},
		{"from=2022-01-01 published_at>=2022-01-03", store.Filter{From: at(0)}}, // both
		{"a!=1", store.Filter{Tests: []store.Test{{Field: "a", Op: "!=", Value: "1"}}}},
		{"a^=x=y", store.Filter{Tests: []store.Test{{Field: "a", Op: "^=", Value: "x=y"}}}},
		{"a>=-1.5", store.Filter{Tests: []store.Test{{Field: "a", Op: ">=", Bound: -1.5}}}},
		{"a=b>=c", store.Filter{Equal: map[string][]string{"a": {"b>=c"}}}},
	} {
		got, err := store.ParseFilterIn("UTC", strings.Fields(tt.exprs)...)
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
		{"published_at=..", "no end at all"},
		{"published_at!=2022-01-03", "published_at takes"},
		{"from>=2022-01-03", "from takes = only"},
		{"amount>=much", "compares numbers"},
		{"amount>=NaN", "compares numbers"},
		{"source!=", "want field=value"},
		{"a=1,2 a!=1", ""},
		{"a=1 a!=1", "another expression wants that value"},
		{"a>5 a<3", "filter is empty: a is to be 5 at least and 3 at most"},
		{"from=2022-01-04 to=2022-01-03", "filter is empty: it begins at 2022-01-04T00:00:00Z and ends before 2022-01-04"},
	} {
		_, err := store.ParseFilterIn("UTC", strings.Fields(tt.exprs)...)
		if tt.want == "" && err == nil {
			continue
		}
		if err == nil || tt.want == "" || !strings.Contains(err.Error(), tt.want) {
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
		Fields:      map[string]string{"amount": "1500", "kind": "filing", "source": "a shadow", "empty": ""},
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
		"source!=news":                      true,
		"source!=dart":                      false,
		"unknown!=x":                        true, // documents without it pass
		"kind^=fil":                         true,
		"kind^=ing":                         false,
		"stock_code^=0006":                  true,
		"stock_code!=000660":                false,
		"amount>=1500":                      true,
		"amount>1500":                       false,
		"amount<=1500":                      true,
		"amount<-1":                         false,
		"kind>=1":                           false, // no number
		"title^=a":                          false, // it has none
		"from=2022-01-03":                   true,
		"from=2022-01-04":                   false,
		"to=2022-01-02":                     false,
		"to=2022-01-03":                     true,
		"from=2022-01-03T18:00:00+09:00":    true, // included
		"to=2022-01-03T18:00:00+09:00":      false,
		"published_at=2022-01-03T09:00:00Z": true,
	} {
		f, err := store.ParseFilterIn("UTC", strings.Fields(exprs)...)
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

// TestDaysOfAZone: a Korean day is not one of UTC, and Korea's is what is meant unless another is named.
func TestDaysOfAZone(t *testing.T) {
	t.Parallel()
	morning := vector.Document{PublishedAt: time.Date(2022, 1, 3, 8, 0, 0, 0, time.FixedZone("KST", 9*3600))} // the 2nd in UTC
	for zone, want := range map[string]bool{"": true, "Asia/Seoul": true, "UTC": false, "America/New_York": false} {
		f, err := store.ParseFilterIn(zone, "published_at=2022-01-03")
		if err != nil || f.Match(&morning) != want {
			t.Errorf("%s: %v, %v, want %v", zone, f, err, want)
		}
	}
	for _, zone := range []string{"Asia/Soul", "Local", "../etc/passwd"} {
		if _, err := store.ParseFilterIn(zone); err == nil {
			t.Errorf("zone %q was taken", zone)
		}
	}
	f, err := store.ParseFilter("stock_code in 005930, 000660")
	if err != nil || len(f.Equal["stock_code"]) != 2 || !f.Match(&vector.Document{StockCodes: []string{"000660"}}) {
		t.Error(f, err)
	}
	if _, err := store.ParseFilter("stock_code in 005930,,000660"); err == nil {
		t.Error("an empty value was taken")
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	b := setup()
	b.put(t, published("b", 0), published("c", 5), published("a", -1), published("d", 3))
	for _, tt := range []struct {
		l     store.Listing
		want  string
		total int
	}{
		{store.Listing{Order: store.ByID, Limit: 9}, "a b c d ", 4},
		{store.Listing{Order: store.Newest, Limit: 9}, "c d b a ", 4},
		{store.Listing{Order: store.Oldest, Limit: 2}, "b d ", 4},
		{store.Listing{Order: store.Oldest, Offset: 2, Limit: 9}, "c a ", 4},
		{store.Listing{Order: store.ByID, Offset: 9, Limit: 9}, "", 4},
		{store.Listing{Order: store.ByID, Limit: 9, Filter: store.Filter{From: time.Date(2022, 1, 3, 0, 0, 0, 0, time.UTC)}}, "c d ", 2},
	} {
		page, total := b.List(tt.l)
		got := ""
		for _, d := range page {
			got += d.Document.ID + " "
		}
		if got != tt.want || total != tt.total {
			t.Errorf("%+v: %s of %d, want %s of %d", tt.l, got, total, tt.want, tt.total)
		}
	}
	misspelt, err := store.ParseFilter("knd=filing")
	if err != nil {
		t.Fatal(err)
	}
	var wrong *store.FilterError
	if err := b.CheckFilter(misspelt); !errors.As(err, &wrong) {
		t.Errorf("a field that no document has: %v", err)
	}
	if err := setup().CheckFilter(misspelt); err != nil {
		t.Errorf("an empty index: %v", err)
	}
}
