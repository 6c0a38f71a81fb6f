package term_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/embedfleet/embedfleet/cmd/internal/term"
)

func TestTableAlignsWideCharacters(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := term.Table(&out, []string{"score", "title", "id"}, []int{0, 9, 0}, [][]string{
		{"0.91", "삼성전자 공시", "a"},
		{"0.5", "short", "b"},
	})
	want := "score  title      id\n" +
		"0.91   삼성전자…  a\n" +
		"0.5    short      b\n"
	if err != nil || out.String() != want {
		t.Errorf("got\n%swant\n%s%v", out.String(), want, err)
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{
		{"abc", 0, "abc"},
		{"abc", 3, "abc"},
		{"abcd", 3, "ab…"},
		{"가나다", 5, "가나…"},
		{"a\x1b[2J\nb", 0, "a [2J b"},
		{"👩‍👩‍👧x", 2, "…"},
	} {
		if got := term.Cut(tt.in, tt.width); got != tt.want {
			t.Errorf("Cut(%q, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

func TestPlainProgressIsRareAndEndsComplete(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := term.NewProgress(&out, "embedding", 100)
		for i := range 101 {
			p.Set(i)
			time.Sleep(100 * time.Millisecond)
		}
		p.Done()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 5 || lines[0] != "embedding: 20 of 100 (20 %), 10/s" || !strings.Contains(lines[4], "100 of 100 (100 %)") {
			t.Errorf("lines: %q", lines)
		}
	})
}
