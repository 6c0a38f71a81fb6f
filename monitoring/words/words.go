// Package words writes numbers and times as people read them on a page: short, with their unit, in figures that
// line up. It knows nothing of what they count.
package words

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// none stands for a figure that is not there.
const none = "–"

// Count writes a whole number with separators: 1,234,567.
func Count(n int64) string {
	if n < 0 {
		return "−" + Count(-n)
	}
	if n < 1000 {
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%s,%03d", Count(n/1000), n%1000)
}

// Short writes a number in three digits or so: 950, 1.2 k, 34 M.
func Short(n float64) string {
	if math.IsNaN(n) || math.IsInf(n, 0) {
		return none
	}
	unit := 0
	for units := 4; math.Abs(n) >= 999.5 && unit < units; unit++ {
		n /= 1000
	}
	return strings.TrimSpace(Rate(n) + " " + []string{"", "k", "M", "G", "T"}[unit])
}

// Rate writes a number with one digit behind the point below ten, and none above.
func Rate(n float64) string {
	switch {
	case math.IsNaN(n) || math.IsInf(n, 0):
		return none
	case n == math.Trunc(n) || math.Abs(n) >= 9.95:
		return Count(int64(math.Round(n)))
	case math.Abs(n) < 0.05:
		return "<0.1"
	default:
		return strconv.FormatFloat(n, 'f', 1, 64)
	}
}

// Bytes writes a size in decimal units, as disks and networks are counted.
func Bytes(n int64) string {
	s := Short(float64(n))
	if !strings.Contains(s, " ") {
		s += " "
	}
	return s + "B"
}

// Span writes a length of time in at most two units; 0 and less is an en dash.
func Span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d <= 0:
		return none
	case d < time.Second:
		return fmt.Sprintf("%d ms", max(1, d.Milliseconds()))
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return two(d, unit{time.Minute, "min"}, unit{time.Second, "s"})
	case d < 2*day:
		return two(d, unit{time.Hour, "h"}, unit{time.Minute, "min"})
	case d < 364*day:
		return two(d, unit{day, "d"}, unit{time.Hour, "h"})
	default:
		return "over a year"
	}
}

type unit struct {
	length time.Duration
	name   string
}

func two(d time.Duration, big, small unit) string {
	s := fmt.Sprintf("%d %s", d/big.length, big.name)
	if rest := d % big.length / small.length; rest > 0 && d < 10*big.length {
		s += fmt.Sprintf(" %d %s", rest, small.name)
	}
	return s
}

// Ago writes how long ago t was.
func Ago(t time.Time) string {
	if t.IsZero() {
		return none
	}
	return Span(max(time.Since(t), time.Second))
}

// Clock writes a time of day, with its date if that is not today's.
func Clock(t time.Time) string {
	if t.IsZero() {
		return none
	}
	t = t.Local() //nolint:gosmopolitan // people read their own clock; TZ of the process says which
	if now := time.Now(); t.YearDay() != now.YearDay() || t.Year() != now.Year() {
		return t.Format("2 Jan 15:04")
	}
	return t.Format("15:04:05")
}

// Plural writes a number and a word: 1 lane, 2 lanes.
func Plural(n int64, word string) string {
	if n != 1 {
		word += "s"
	}
	return Count(n) + " " + word
}
