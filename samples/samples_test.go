package samples

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/embedfleet/embedfleet/vector"
)

func load(t *testing.T, read func() ([]vector.Document, error)) []vector.Document {
	t.Helper()
	docs, err := read()
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

func TestCounts(t *testing.T) {
	t.Parallel()
	counts := map[string]int{}
	for _, d := range load(t, Documents) {
		counts[d.Source]++
	}
	for source, want := range map[string]int{"dart": 502, "news": 13, "stsb": 300, "note": 8} {
		if counts[source] != want {
			t.Errorf("%d documents of %s, want %d", counts[source], source, want)
		}
		delete(counts, source)
	}
	if len(counts) != 0 {
		t.Errorf("documents of other sources: %v", counts)
	}
	if got, want := len(load(t, Documents)), len(load(t, Korean))+len(load(t, English)); got != want {
		t.Errorf("%d documents, the languages together have %d", got, want)
	}
}

func TestDocumentsAreValid(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, d := range load(t, Documents) {
		if d.ID == "" || seen[d.ID] {
			t.Errorf("id %q is empty or there twice", d.ID)
		}
		seen[d.ID] = true
		if d.Text == "" || d.Text != strings.TrimSpace(d.Text) || !utf8.ValidString(d.Text) || !norm.NFC.IsNormalString(d.Text) {
			t.Errorf("%s: text %.60q is empty, padded, not UTF-8 or not composed", d.ID, d.Text)
		}
		if strings.ContainsAny(d.Text, "<>\x00") || strings.Contains(d.Text, "&amp;") || strings.Contains(d.Text, "&quot;") {
			t.Errorf("%s: text %.60q holds markup", d.ID, d.Text)
		}
		if d.Source == "news" && d.URL != "" && !strings.Contains(d.URL, ".invalid/") {
			t.Errorf("%s: invented news points to %s", d.ID, d.URL)
		}
	}
}

func TestFilings(t *testing.T) {
	t.Parallel()
	kst := time.FixedZone("KST", 9*60*60)
	listed := 0
	for _, d := range load(t, Korean) {
		if d.Source != "dart" {
			continue
		}
		receipt := strings.TrimPrefix(d.ID, "dart:")
		if len(receipt) != 14 || !strings.HasSuffix(d.URL, "rcpNo="+receipt) {
			t.Errorf("%s has address %s", d.ID, d.URL)
		}
		if d.Text != d.Fields["corp_name"]+" "+d.Title {
			t.Errorf("%s: text %q is not company and report", d.ID, d.Text)
		}
		if day := d.PublishedAt.In(kst).Format(time.DateOnly); day != "2022-01-03" {
			t.Errorf("%s was published on %s", d.ID, day)
		}
		for _, code := range d.StockCodes {
			if listed++; len(code) != 6 {
				t.Errorf("%s has stock code %q", d.ID, code)
			}
		}
	}
	if listed != 336 {
		t.Errorf("%d filings of companies with a stock code, want 336", listed)
	}
}

// TestNotesAreLong keeps the promise that some samples don't fit a model that reads 256 tokens.
func TestNotesAreLong(t *testing.T) {
	t.Parallel()
	long := 0
	for _, d := range load(t, English) {
		if len(strings.Fields(d.Text)) > 256 {
			long++
		}
	}
	if long < 3 {
		t.Errorf("%d texts of more than 256 words, want 3", long)
	}
}

func TestQueries(t *testing.T) {
	t.Parallel()
	for lang, docs := range map[Language][]vector.Document{En: load(t, English), Ko: load(t, Korean)} {
		queries := Queries(lang)
		if len(queries) != 3 {
			t.Errorf("%d queries in %s, want 3", len(queries), lang)
		}
		for _, q := range queries {
			found := false
			for _, d := range docs {
				found = found || strings.Contains(d.Text, q.Expect) || strings.Contains(d.Title, q.Expect)
			}
			if q.Text == "" || q.Expect == "" || !found {
				t.Errorf("query %q: no %s sample holds %q", q.Text, lang, q.Expect)
			}
		}
	}
	if got := Queries("fr"); got != nil {
		t.Errorf("queries in French: %v", got)
	}
}
