package term

import (
	"fmt"
	"io"
	"strings"

	"github.com/embedfleet/embedfleet/gateway"
)

// Hits writes the answer to a search as a small table.
func Hits(w io.Writer, hits []gateway.Hit) error {
	if len(hits) == 0 {
		_, err := fmt.Fprintln(w, "nothing found")
		return err
	}
	rows := make([][]string, len(hits))
	for i, h := range hits {
		text := h.Title
		if strings.Contains(h.Snippet, text) {
			text = h.Snippet // says the title and more
		}
		rows[i] = []string{fmt.Sprintf("%.3f", h.Score), text, h.Source, h.ID}
	}
	return Table(w, []string{"SCORE", "TEXT", "SOURCE", "ID"}, []int{0, 72, 0, 0}, rows)
}
