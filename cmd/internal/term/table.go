package term

import (
	"fmt"
	"io"
	"strings"

	"github.com/rivo/uniseg"
)

// Table writes rows under a header, columns aligned by the width that a terminal gives each character:
// Hangul takes two cells. Cells longer than their column's limit are cut; a limit of 0 means none.
func Table(w io.Writer, header []string, limits []int, rows [][]string) error {
	widths := make([]int, len(header))
	cut := make([][]string, 0, len(rows)+1)
	for _, row := range append([][]string{header}, rows...) {
		line := make([]string, len(row))
		for i, cell := range row {
			line[i] = Cut(cell, limits[i])
			widths[i] = max(widths[i], uniseg.StringWidth(line[i]))
		}
		cut = append(cut, line)
	}
	for _, row := range cut {
		var b strings.Builder
		for i, cell := range row {
			if b.WriteString(cell); i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-uniseg.StringWidth(cell)+2))
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// Cut returns s on one line and at most width cells wide (0: any width), with an ellipsis where it was cut.
// Control characters become spaces, so that a stored text can't drive the terminal.
func Cut(s string, width int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
	if width == 0 || uniseg.StringWidth(s) <= width {
		return s
	}
	var b strings.Builder
	cells := 1 // of the ellipsis
	for g := uniseg.NewGraphemes(s); g.Next(); {
		if cells += g.Width(); cells > width {
			break
		}
		b.WriteString(g.Str())
	}
	return b.String() + "…"
}
