package main

import (
	"testing"
	"time"
)

// TestMemoryFigures checks the arithmetic of the table: what one more worker adds is the worst of them, and
// what may be added is the larger of a quarter of the first and 80 MB.
func TestMemoryFigures(t *testing.T) {
	t.Parallel()
	const mb = 1 << 20
	times := boots{
		unprepared: []measure{{Seconds: 9}, {Seconds: 10}, {Seconds: 20}},
		prepared:   []measure{{Seconds: 3}, {Seconds: 2}, {Seconds: 2}},
	}
	for _, tt := range []struct {
		first, added int64 // at rest, MB
		want         string
	}{
		{100, 79, "reached"}, {100, 81, "MISSED"}, {400, 99, "reached"}, {400, 101, "MISSED"},
	} {
		m := fleetMemory{
			rows:      []memoryRow{{added: tt.first * mb}, {added: 10 * mb}, {added: tt.added * mb, ready: time.Second}},
			aloneRest: tt.first * mb, aloneWork: 500 * mb, allWork: 700 * mb,
		}
		figures, lines := memoryFigures(times, m)
		if got := lines[1][len(lines[1])-1]; got != tt.want {
			t.Errorf("%d MB beside %d MB: %s, want %s", tt.added, tt.first, got, tt.want)
		}
		if f := figures["memory_added"]; f.Median != float64(tt.added) || f.Ratio != float64(tt.added)/float64(tt.first) || f.RatioTo != "memory_first" {
			t.Errorf("memory_added %+v", f)
		}
		if f := figures["memory_added_worked"]; f.Median != 100 || f.Ratio != 0.2 {
			t.Errorf("memory_added_worked %+v, want 100 MB, a fifth", f)
		}
		if f := figures["boot_prepared"]; f.Median != 2 || f.Ratio != 0.2 || lines[0][len(lines[0])-1] != "reached" {
			t.Errorf("boot_prepared %+v, %v; want 2 s, a fifth, the median of the rounds' ratios", f, lines[0])
		}
	}
}
