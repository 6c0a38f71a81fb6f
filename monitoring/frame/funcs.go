package frame

import (
	"html/template"
	"math"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/words"
)

// Funcs are the words for numbers and times, for templates:
//
//	count     1234567      1,234,567
//	short     1234567      1.2 M
//	rate      0.4, 12.3    0.4, 12
//	bytes     1234567      1.2 MB
//	span      a Duration   850 ms, 42 s, 3 min 5 s, 2 h 10 min, 3 d 4 h; 0 is an en dash
//	ago       a Time       span since then; the zero time is an en dash
//	clock     a Time       15:04:05, with the date if it is not of today
//	stamp     a Time       RFC 3339, for the attribute datetime
//	plural    n "lane"     1 lane, 2 lanes
func Funcs() template.FuncMap {
	return template.FuncMap{
		"count": func(n any) string { return words.Count(whole(n)) },
		"short": func(n any) string { return words.Short(real(n)) },
		"rate":  func(n any) string { return words.Rate(real(n)) },
		"bytes": func(n any) string { return words.Bytes(whole(n)) },
		"span":  words.Span,
		"ago":   words.Ago,
		"clock": words.Clock,
		"stamp": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"plural": func(n any, word string) string {
			return words.Plural(whole(n), word)
		},
	}
}

// whole and real take any number a template hands over.
func whole(n any) int64 { return int64(real(n)) }

func real(n any) float64 {
	switch n := n.(type) {
	case int:
		return float64(n)
	case int64:
		return float64(n)
	case uint64:
		return float64(n)
	case float64:
		return n
	default:
		return math.NaN()
	}
}
