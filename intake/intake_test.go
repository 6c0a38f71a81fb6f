package intake_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/embedfleet/embedfleet/intake"
)

type want struct {
	line int
	text string // of the document, or
	err  string // a part of the error
}

func check(t *testing.T, r io.Reader, format intake.Format, wants []want) {
	t.Helper()
	var got []intake.Item
	for item := range intake.Read(r, format) {
		got = append(got, item)
	}
	if len(got) != len(wants) {
		t.Fatalf("%d items, want %d: %+v", len(got), len(wants), got)
	}
	for i, w := range wants {
		g := got[i]
		if g.Line != w.line || (w.err == "") != (g.Err == nil) || g.Err != nil && !strings.Contains(g.Err.Error(), w.err) || g.Err == nil && g.Doc.Text != w.text {
			t.Errorf("item %d = line %d %q %v, want %+v", i, g.Line, g.Doc.Text, g.Err, w)
		}
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", intake.MaxLine+1)
	for _, tt := range []struct {
		name   string
		format intake.Format
		in     string
		want   []want
	}{
		{"texts", intake.Text, "a\r\n\n  \nb", []want{{1, "a", ""}, {4, "b", ""}}},
		{"byte order mark", intake.Auto, "\xef\xbb\xbf가", []want{{1, "가", ""}}},
		{"nothing", intake.Auto, "", nil},
		{"a long line costs only itself", intake.Text, "a\n" + long + "\nb\n", []want{{1, "a", ""}, {2, "", "longer than"}, {3, "b", ""}}},
		{"broken UTF-8 costs only itself", intake.Text, "a\nb\xb0\nc", []want{{1, "a", ""}, {2, "", "byte 2"}, {3, "c", ""}}},
		{"JSON lines are sniffed", intake.Auto, "{\"text\":\"a\"}\n\"b\"\n", []want{{1, "a", ""}, {2, "b", ""}}},
		{
			"bad JSON lines", intake.JSONL, "{\"text\":\"a\"\n{\"txet\":\"a\"}\n{\"text\":1}\n{\"text\":\"b\"} {}\n{\"text\":\"c\"}",
			[]want{{1, "", "ends inside"}, {2, "", "txet"}, {3, "", "number"}, {4, "", "more than one"}, {5, "c", ""}},
		},
		{"UTF-16 with its mark", intake.Text, "\xff\xfe\xac\xac\n\x00", []want{{1, "", "UTF-16"}, {2, "", "UTF-16"}}},
		{"UTF-16 without a mark, that would pass for UTF-8", intake.Text, "h\x00i\x00", []want{{1, "", "UTF-16"}}},
		{"UTF-16 big end first", intake.JSONL, "\xfe\xff\x00{", []want{{1, "", "UTF-16"}}},
		{"JSON with bytes that are not UTF-8", intake.JSONL, "{\"text\":\"\xff\"}\n{\"text\":\"b\"}", []want{{1, "", "not UTF-8"}, {2, "b", ""}}},
		{"CSV", intake.CSV, "ID,Text\n1,a\n2,\"b\nc\"\n\n3,d", []want{{2, "a", ""}, {3, "b\nc", ""}, {6, "d", ""}}},
		{
			"bad records", intake.CSV, "text,published_at\na\nb,yesterday\n\"c,\nd,\ne\"x,\nf,2026-01-02T15:04:05+09:00",
			[]want{{2, "", "1 columns"}, {3, "", "yesterday"}, {4, "", "column"}, {7, "f", ""}},
		},
		{"a quote never closed", intake.CSV, "text\n\"a\nb\nc\n", []want{{2, "", "never closed"}, {3, "b", ""}, {4, "c", ""}}},
		{"a header without text", intake.CSV, "id,body\n1,a\n", []want{{1, "", "no column is called text"}}},
		{"a header with the same name twice", intake.CSV, "text,text\n1,a\n", []want{{1, "", "must be there and differ"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			check(t, strings.NewReader(tt.in), tt.format, tt.want)
			check(t, iotest.OneByteReader(strings.NewReader(tt.in)), tt.format, tt.want)
		})
	}
}

func TestReadEndsWhenTheReaderFails(t *testing.T) {
	t.Parallel()
	gone := errors.New("the disk is gone")
	for _, format := range []intake.Format{intake.Text, intake.JSONL} {
		r := io.MultiReader(strings.NewReader("{}\n"), iotest.ErrReader(gone))
		var last error
		n := 0
		for item := range intake.Read(r, format) {
			last = item.Err
			n++
		}
		if n != 2 || !errors.Is(last, gone) {
			t.Errorf("%s: %d items, last error %v", format, n, last)
		}
	}
}

func TestColumns(t *testing.T) {
	t.Parallel()
	in := "id,text,title,source,url,published_at,stock_codes,desk\nx,a,t,s,u,2026-01-02T15:04:05+09:00,005930;000660,economy\n"
	for item := range intake.Read(strings.NewReader(in), intake.CSV) {
		d := item.Doc
		if item.Err != nil || d.ID != "x" || d.Title != "t" || d.Source != "s" || d.URL != "u" || d.PublishedAt.Unix() != 1767333845 ||
			strings.Join(d.StockCodes, " ") != "005930 000660" || d.Fields["desk"] != "economy" {
			t.Errorf("got %+v, %v", d, item.Err)
		}
	}
}

func TestTextIDIsTheTexts(t *testing.T) {
	t.Parallel()
	if a, b := intake.TextID("a"), intake.TextID("b"); a == b || a != intake.TextID("a") || len(a) != len("text:")+32 {
		t.Errorf("ids %q and %q", a, b)
	}
}

func TestReadTextsLooksAtTheTextOnly(t *testing.T) {
	t.Parallel()
	in := "{\"text\":\"a\",\"n\":1}\n{\"txet\":\"b\"}\n\n{\"text\":\"\"}\n{\"text\":2}\n[]\n{\"text\":\"\xff\"}\n"
	var got []string
	for item := range intake.ReadTexts(strings.NewReader(in)) {
		if item.Err != nil {
			got = append(got, fmt.Sprintf("%d!", item.Line))
		} else {
			got = append(got, fmt.Sprintf("%d:%s", item.Line, item.Doc.Text))
		}
	}
	if want := "1:a 2! 4: 5! 6! 7!"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestForFile(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]intake.Format{"a.TXT": intake.Text, "b/c.ndjson": intake.JSONL, "d.csv": intake.CSV, "e": intake.Auto, "-": intake.Auto} {
		if got := intake.ForFile(name); got != want {
			t.Errorf("ForFile(%q) = %q, want %q", name, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{"a\nb", "{\"text\":\"a\"}\n\"b\"", "text\n\"a\nb", "id,text\n1,\"a\"\"b\"\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, format := range []intake.Format{intake.Auto, intake.Text, intake.JSONL, intake.CSV} {
			last := 0
			for item := range intake.Read(strings.NewReader(s), format) {
				if item.Line <= last && item.Err == nil || item.Line > strings.Count(s, "\n")+1 {
					t.Fatalf("%s: line %d after %d", format, item.Line, last)
				}
				last = item.Line
			}
		}
	})
}
