package page

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestSpark(t *testing.T) {
	t.Parallel()
	label := func(now, most float64) string { return fmt.Sprint(now, most) }
	end := time.Unix(3600, 0)
	for _, tt := range []struct {
		name   string
		values []float64
		line   string // its beginning and its end
		label  string
	}{
		{"none", nil, "", "0 0"},
		{"one", []float64{3}, "", "3 3"},
		{"nothing but zeros", []float64{0, 0, 0, 0}, "", "0 0"},
		{"rising", []float64{0, 0, 1, 1, 2, 4}, "M115.9 21L118 16.3L120 2", "4 4"},
		{"a peak of half a minute stays", []float64{9, 0, 0, 0}, "M118 2L120 21", "0 9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSpark(tt.values, end, label)
			if s.Line != tt.line || s.Label != tt.label {
				t.Errorf("line %q, label %q, want %q, %q", s.Line, s.Label, tt.line, tt.label)
			}
		})
	}
	hour := make([]float64, 120)
	for i := range hour {
		hour[i] = float64(i)
	}
	full := newSpark(hour, end, label)
	if !strings.HasPrefix(full.Line, "M0 ") || strings.Count(full.Line, "L") != sparkPoints-1 {
		t.Errorf("an hour does not fill the chart: %.20s with %d points", full.Line, strings.Count(full.Line, "L")+1)
	}
	a, b := newSpark(hour[:118], end.Add(-time.Minute), label), full
	if !strings.Contains(b.Line, strings.Split(a.Line, "L")[58][4:]) {
		t.Error("points move when time goes on by a minute")
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	table := func(rows ...string) fragment {
		f := fragment{ID: "t", html: "<table>" + strings.Join(rows, "") + "</table>"}
		for i, row := range rows {
			f.rows = append(f.rows, fragment{ID: fmt.Sprint("r", i), html: row})
		}
		return f
	}
	for _, tt := range []struct {
		name     string
		old, now fragment
		want     string
	}{
		{"nothing", table("<a>", "<b>"), table("<a>", "<b>"), ""},
		{"a row", table("<a>", "<b>"), table("<a>", "<c>"), "r1"},
		{"both rows", table("<a>", "<b>"), table("<c>", "<d>"), "r0 r1"},
		{"a row more", table("<a>"), table("<a>", "<b>"), "t"},
		{"a row less", table("<a>", "<b>"), table("<a>"), "t"},
		{"no rows any more", table("<a>"), fragment{ID: "t", html: "none"}, "t"},
		{"around the rows", table("<a>"), fragment{ID: "t", html: "<h>" + table("<a>").html, rows: table("<a>").rows}, "t"},
		{"another piece", fragment{ID: "x", html: "x"}, fragment{ID: "y", html: "x"}, "y"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var ids []string
			for _, s := range changes([]fragment{tt.old}, []fragment{tt.now}) {
				ids = append(ids, s.ID)
			}
			if got := strings.Join(ids, " "); got != tt.want {
				t.Errorf("sent %q, want %q", got, tt.want)
			}
		})
	}
}
