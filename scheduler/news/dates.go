package news

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
)

// zones are the abbreviations that mean one thing. BST, CST and IST do not; Go takes any for UTC.
var zones = map[string]int{
	"z": 0, "ut": 0, "utc": 0, "gmt": 0, "kst": 9, "jst": 9, "est": -5, "edt": -4, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7,
	"cet": 1, "cest": 2, "eet": 2, "eest": 3, "wet": 0, "west": 1, "msk": 3, "hkt": 8, "sgt": 8, "aest": 10, "aedt": 11, "nzst": 12, "nzdt": 13,
}

var months = map[string]time.Month{
	"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "sept": 9, "oct": 10, "nov": 11, "dec": 12,
	"january": 1, "february": 2, "march": 3, "april": 4, "june": 6, "july": 7, "august": 8, "september": 9, "october": 10, "november": 11, "december": 12,
}

// The parts of a date, in lower case with single blanks. A time of day is looked for first, a zone behind it,
// and what is left must be a day, all of it.
var (
	label    = regexp.MustCompile(`^(?:입력|수정|등록|승인|송고|게재|작성|기사입력|최종수정|최초입력|발행)(?:일시|시간|일)?\s*[:：]?\s*`)
	comment  = regexp.MustCompile(`\s*\([a-z가-힣]{1,5}\)`) // a weekday or a zone, said again
	weekday  = regexp.MustCompile(`^(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?|[월화수목금토일](?:요일)?),?\s*(?:,\s*)?`)
	weekdays = regexp.MustCompile(`\s+[월화수목금토일](?:요일)?$`)
	timeForm = regexp.MustCompile(`(?:(오전|오후|am|pm)\s*)?t?(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?(?:\s*(am|pm|오전|오후))?`)
	hanForm  = regexp.MustCompile(`(?:(오전|오후)\s*)?(\d{1,2})\s*시(?:\s*(\d{1,2})\s*분)?(?:\s*(\d{1,2})\s*초)?()`)
	packed   = regexp.MustCompile(`^()(\d{8}t?|\d{4}-\d{2}-\d{2}t)(\d{2})(\d{2})(\d{2})?`)
	offset   = regexp.MustCompile(`^\s*(?:gmt|utc)?\s*([+-])(\d{1,2}):?(\d{2})?(?:\s|$)`)
	zoneName = regexp.MustCompile(`^\s*([a-z]+(?:/[a-z_]+)?)(?:\s|$)`)
	yearLast = regexp.MustCompile(`^(\d{1,2})[ -]([a-z]+|\d{1,2}월)\.?[ -](\d{4}|\d{2})$`)
	monthTop = regexp.MustCompile(`^([a-z]+)\.? (\d{1,2}),? (\d{4})$`)
	yearTop  = regexp.MustCompile(`^(\d{4})\s*[-./년]\s*(\d{1,2})\s*[-./월]\s*(\d{1,2})\s*(?:일|\.)?$`)
	noSeps   = regexp.MustCompile(`^(\d{4})(\d{2})(\d{2})$`)
	slashes  = regexp.MustCompile(`^(\d{1,2})[./-](\d{1,2})[./-](\d{4})$`)
	numbers  = regexp.MustCompile(`^(\d{1,2}) (\d{2}) (\d{4})$`)
	weekForm = regexp.MustCompile(`^(\d{4})-?w(\d{2})-?(\d)$`)
	epoch    = regexp.MustCompile(`^(\d{10})(\d{3})?$`)
)

// ParseDate reads a date as feeds write it. One that names no zone is Korean time, one without a time of day is
// the day's beginning, and a weekday is not compared: it is wrong where the date is right. It reports false for
// what it cannot read, for what may mean two days (05/06/2026), and for zones that mean two.
func ParseDate(s string) (time.Time, bool) {
	s = strings.ToLower(strings.Join(strings.Fields(s), " "))
	if len(s) > 80 {
		return time.Time{}, false
	}
	if m := epoch.FindStringSubmatch(s); m != nil {
		n, err := strconv.ParseInt(m[1], 10, 64)
		return time.Unix(n, 0).UTC(), err == nil
	}
	s = comment.ReplaceAllString(label.ReplaceAllString(s, ""), "")
	s = weekday.ReplaceAllString(s, "")
	day, at, zone := split(s)
	offset, rest, ok := readZone(zone)
	if !ok {
		return time.Time{}, false
	}
	day = strings.TrimSpace(strings.TrimSpace(day) + " " + strings.TrimSpace(rest))
	y, m, d, ok := readDay(strings.Trim(weekdays.ReplaceAllString(day, ""), " ,"))
	if !ok || !at.ok {
		return time.Time{}, false
	}
	t := time.Date(y, m, d, at.hour, at.minute, at.second, 0, offset)
	return t.UTC(), true
}

// A timeOfDay is one that was read; ok is false if there can be no such.
type timeOfDay struct {
	hour, minute, second int
	ok                   bool
}

// split takes a date apart: the day, the time of day, and what follows that.
func split(s string) (day string, at timeOfDay, after string) {
	if m := packed.FindStringSubmatchIndex(s); m != nil {
		return strings.TrimSuffix(s[m[4]:m[5]], "t"), readTime(s, m), s[m[1]:]
	}
	for _, form := range []*regexp.Regexp{timeForm, hanForm} {
		if m := form.FindStringSubmatchIndex(s); m != nil {
			return s[:m[0]], readTime(s, m), s[m[1]:]
		}
	}
	return s, timeOfDay{ok: true}, ""
}

// readTime reads the groups half of the day, hour, minute, second, half of the day. The packed form has the day
// in the second group and the time from the third on.
func readTime(s string, m []int) (t timeOfDay) {
	group := func(i int) string {
		if 2*i+1 >= len(m) || m[2*i] < 0 {
			return ""
		}
		return s[m[2*i]:m[2*i+1]]
	}
	half, first := group(1), 2
	if len(group(2)) >= len("20060102") {
		first = 3
	} else if half == "" {
		half = group(5)
	}
	number := func(i int) int { n, _ := strconv.Atoi(group(i)); return n } // digits, or absent
	t.hour, t.minute, t.second = number(first), number(first+1), number(first+2)
	t.ok = t.hour < 24 && t.minute < 60 && t.second <= 60 || t.hour == 24 && t.minute == 0 && t.second == 0
	switch {
	case half == "":
	case t.hour > 12 && (half == "pm" || half == "오후"): // said twice
	case t.hour > 12:
		t.ok = false
	case half == "am" || half == "오전":
		t.hour %= 12
	default:
		t.hour = t.hour%12 + 12
	}
	return t
}

// readZone reads what follows a time of day: a zone, or none, and then what belongs to the day ("KST 2026").
func readZone(s string) (zone *time.Location, rest string, ok bool) {
	if m := offset.FindStringSubmatchIndex(s); m != nil {
		sign, hours, minutes := s[m[2]:m[3]], s[m[4]:m[5]], ""
		if m[6] >= 0 {
			minutes = s[m[6]:m[7]]
		}
		h, _ := strconv.Atoi(hours) // digits
		min, _ := strconv.Atoi("0" + minutes)
		seconds := h*3600 + min*60
		if sign == "-" {
			seconds = -seconds
		}
		return time.FixedZone("", seconds), s[m[1]:], seconds >= -14*3600 && seconds <= 14*3600 && min < 60
	}
	m := zoneName.FindStringSubmatchIndex(s)
	if m == nil {
		return scheduler.KST, s, true
	}
	name, rest := s[m[2]:m[3]], s[m[1]:]
	if hours, known := zones[name]; known {
		return time.FixedZone(name, hours*60*60), rest, true
	}
	if _, isMonth := months[name]; isMonth {
		return scheduler.KST, s, true
	}
	if name == "asia/seoul" {
		return scheduler.KST, rest, true
	}
	if area, city, found := strings.Cut(name, "/"); found { // names of places are written with capitals
		parts := strings.Split(city, "_")
		for i, p := range parts {
			if p != "" {
				parts[i] = strings.ToUpper(p[:1]) + p[1:]
			}
		}
		if loc, err := time.LoadLocation(strings.ToUpper(area[:1]) + area[1:] + "/" + strings.Join(parts, "_")); err == nil {
			return loc, rest, true
		}
	}
	return nil, "", false
}

// readDay reads a day in any of the forms that mean one only.
func readDay(s string) (y int, m time.Month, d int, ok bool) {
	number := func(s string) int { n, _ := strconv.Atoi(s); return n } // digits
	valid := func(y int, m time.Month, d int) (int, time.Month, int, bool) {
		return y, m, d, m >= 1 && m <= 12 && d >= 1 && d <= time.Date(y, m+1, 0, 0, 0, 0, 0, time.UTC).Day()
	}
	if g := yearTop.FindStringSubmatch(s); g != nil {
		return valid(number(g[1]), time.Month(number(g[2])), number(g[3]))
	}
	if g := noSeps.FindStringSubmatch(s); g != nil {
		return valid(number(g[1]), time.Month(number(g[2])), number(g[3]))
	}
	if g := yearLast.FindStringSubmatch(s); g != nil {
		month := months[g[2]]
		if name, found := strings.CutSuffix(g[2], "월"); found {
			month = time.Month(number(name))
		}
		year := number(g[3])
		if year < 100 {
			year += 2000
		}
		return valid(year, month, number(g[1]))
	}
	if g := monthTop.FindStringSubmatch(s); g != nil {
		return valid(number(g[3]), months[g[1]], number(g[2]))
	}
	if g := numbers.FindStringSubmatch(s); g != nil { // 20 09 2026, as RFC 822 orders it
		return valid(number(g[3]), time.Month(number(g[2])), number(g[1]))
	}
	if g := slashes.FindStringSubmatch(s); g != nil {
		a, b := number(g[1]), number(g[2])
		switch {
		case a > 12 || a == b:
			return valid(number(g[3]), time.Month(b), a)
		case b > 12:
			return valid(number(g[3]), time.Month(a), b)
		}
	}
	if g := weekForm.FindStringSubmatch(s); g != nil {
		return weekDay(number(g[1]), number(g[2]), number(g[3]))
	}
	return 0, 0, 0, false
}

// weekDay returns the day of an ISO week.
func weekDay(year, week, weekday int) (int, time.Month, int, bool) {
	fourth := time.Date(year, 1, 4, 0, 0, 0, 0, time.UTC) // is in week 1
	monday := fourth.AddDate(0, 0, -(int(fourth.Weekday())+6)%7)
	at := monday.AddDate(0, 0, 7*(week-1)+weekday-1)
	gotYear, gotWeek := at.ISOWeek()
	return at.Year(), at.Month(), at.Day(), gotYear == year && gotWeek == week && weekday >= 1 && weekday <= 7
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
