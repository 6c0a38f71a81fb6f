package news

import (
	"regexp"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
)

var (
	weekday   = regexp.MustCompile(`^(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+`)
	zone      = regexp.MustCompile(`(?:\s*(Z|[+-]\d{2}:?\d{2})|\s+([A-Za-z]{1,5}))$`)
	fraction  = regexp.MustCompile(`(:\d{2})[.,]\d+`)
	gmtOffset = regexp.MustCompile(`(?i)\s*(?:GMT|UTC)\s*([+-]\d{2}:?\d{2})$`)
)

// zones are the abbreviations that are believed. Go takes any other for UTC, nine hours off.
var zones = map[string]int{"Z": 0, "UT": 0, "UTC": 0, "GMT": 0, "KST": 9, "JST": 9, "EST": -5, "EDT": -4, "PST": -8, "PDT": -7, "CET": 1, "CEST": 2}

// layouts are the forms of a date without weekday and zone.
var layouts = []string{
	"2 Jan 2006 15:04:05", "2 Jan 2006 15:04", "2 January 2006 15:04:05", "2 Jan 06 15:04:05", "2 01 2006 15:04:05", "2 01 2006 15:04",
	"Jan 2, 2006 15:04:05", "Jan 2, 2006 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04",
	"2006.01.02 15:04:05", "2006.01.02 15:04", "2006. 1. 2. 15:04:05", "2006. 1. 2. 15:04", "2006. 1. 2 15:04", "2006/01/02 15:04:05", "2006/01/02 15:04", "20060102150405",
	"200601021504", "Jan _2 15:04:05 2006", "2006-01-02", "2006.01.02", "2 Jan 2006", "20060102",
}

// ParseDate reads a date as feeds write it. One that names no zone is Korean time. It reports false for what
// it cannot read or does not believe.
func ParseDate(s string) (time.Time, bool) {
	s = strings.Join(strings.Fields(s), " ")
	s = weekday.ReplaceAllString(s, "")
	s = gmtOffset.ReplaceAllString(s, "$1")
	s = fraction.ReplaceAllString(s, "$1")
	where := scheduler.KST
	if m := zone.FindStringSubmatchIndex(s); m != nil && !isDay(s, m) {
		name := strings.TrimSpace(s[m[0]:])
		loc, ok := location(name)
		if !ok {
			return time.Time{}, false
		}
		where, s = loc, s[:m[0]]
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, s, where); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// isDay reports whether what looks like an offset is the end of a date: 2026-10-07 alone ends in -07, but
// the offset's form wants four digits, as in 2026-1007, which nobody writes without a time of day.
func isDay(s string, m []int) bool {
	return (s[m[0]] == '-' || s[m[0]] == '+') && !strings.Contains(s[:m[0]], ":") && m[0] < 8
}

// location reads an offset or a name.
func location(name string) (*time.Location, bool) {
	if hours, ok := zones[strings.ToUpper(name)]; ok {
		return time.FixedZone(name, hours*60*60), true
	}
	for _, layout := range []string{"-0700", "-07:00"} {
		if t, err := time.Parse(layout, name); err == nil {
			_, offset := t.Zone()
			return time.FixedZone("", offset), offset >= -14*3600 && offset <= 14*3600
		}
	}
	return nil, false
}

const tolerance = 5 * time.Minute // of an outlet's clock

// Published returns when an item was published as far as it can be believed: a date that cannot be read, or
// lies in the future or before there were feeds, is the time of fetching. From says which it is.
func Published(s string, fetched time.Time) (at time.Time, from string) {
	at, ok := ParseDate(s)
	if !ok || at.After(fetched.Add(tolerance)) || at.Year() < 1995 {
		return fetched.UTC().Truncate(time.Second), "first_seen"
	}
	if at.After(fetched) {
		at = fetched.UTC().Truncate(time.Second)
	}
	return at, "feed"
}
