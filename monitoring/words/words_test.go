package words_test

import (
	"math"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/words"
)

func TestNumbers(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 7: "7", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1005: "−1,005"} {
		if got := words.Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[float64]string{0: "0", 0.01: "<0.1", 0.42: "0.4", 9.94: "9.9", 12.3: "12", 999.6: "1.0 k", 1234: "1.2 k", 34e6: "34 M", math.Inf(1): "–"} {
		if got := words.Short(n); got != want {
			t.Errorf("Short(%v) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1200: "1.2 kB", 212e6: "212 MB", 3e9: "3 GB"} {
		if got := words.Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	if got := words.Plural(1, "lane") + words.Plural(1200, "lane"); got != "1 lane1,200 lanes" {
		t.Errorf("Plural: %q", got)
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		0: "–", -time.Second: "–", 10 * time.Microsecond: "1 ms", 850 * time.Millisecond: "850 ms", 42 * time.Second: "42 s",
		119 * time.Second: "119 s", 185 * time.Second: "3 min 5 s", 3 * time.Minute: "3 min", 42*time.Minute + 7*time.Second: "42 min",
		130 * time.Minute: "2 h 10 min", 76 * time.Hour: "3 d 4 h", 40 * day: "40 d", 400 * day: "over a year",
	} {
		if got := words.Span(d); got != want {
			t.Errorf("Span(%v) = %q, want %q", d, got, want)
		}
	}
	if got := words.Ago(time.Time{}) + words.Clock(time.Time{}); got != "––" {
		t.Errorf("of no time: %q", got)
	}
	if got := words.Ago(time.Now().Add(time.Hour)); got != "1 s" {
		t.Errorf("of a clock that is ahead: %q", got)
	}
}
