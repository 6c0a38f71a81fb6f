package dart

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// archiveOf makes a ZIP of names and contents in turn.
func archiveOf(t testing.TB, parts ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		f, err := w.Create(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, parts[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDocumentSample has an entry that declares utf-8 and is CP949, and one that declares euc-kr and is UTF-8;
// neither is well-formed.
func TestDocumentSample(t *testing.T) {
	t.Parallel()
	c := clientOf(func(r *http.Request) (int, []byte, error) {
		if r.URL.Query().Get("rcept_no") != "20240131000327" {
			t.Errorf("query %v", r.URL.Query())
		}
		return 200, fixture(t, "document_sample.zip"), nil
	}, &quotaMap{})
	text, err := c.Document(t.Context(), "20240131000327", 1<<20)
	want := "당사는 반도체 R&D 투자를 확대하며 영업이익은 전년 대비 12.3% < 목표치였습니다. 똠방각하"
	if err != nil || strings.Count(text, want) != 2 || strings.ContainsAny(text, ">") {
		t.Errorf("%q, %v, want twice %q", text, err, want)
	}
	if _, err := c.Document(t.Context(), "../etc/passwd", 1); err == nil {
		t.Error("a receipt number that is none was asked for")
	}
}

func TestDocumentOrderAndCap(t *testing.T) {
	t.Parallel()
	a := archiveOf(t, "00_x.xml", "<p>attachment</p>", "20240131000327.xml", "<p>main 가나다</p>", "logo.png", "binary")
	if got, err := usual.document(a, "20240131000327", 100); err != nil || got != "main 가나다\nattachment" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := usual.document(a, "20240131000327", 10); err != nil || got != "main 가" { // not half of 나
		t.Errorf("%q, %v", got, err)
	}
}

// TestRealReport is the quarterly report whose declaration lies: utf-8 declared, CP949 written.
func TestRealReport(t *testing.T) {
	t.Parallel()
	f, err := os.Open(testkit.Shared(t, "data", "dart", "document_20220816001711.xml.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	text := Strip(Decode(raw), 16<<20)
	n := utf8.RuneCountInString(text)
	if n < 400_000 || n > 520_000 || strings.ContainsRune(text, utf8.RuneError) || !strings.Contains(text, "보고서") {
		t.Errorf("%d characters, begins %q", n, cut(text, 200))
	}
	for _, bad := range []string{"<TD", "</P>", "<TABLE"} {
		if strings.Contains(text, bad) {
			t.Errorf("%s is left", bad)
		}
	}
}

func TestBombs(t *testing.T) {
	t.Parallel()
	small := bounds{member: 1000, all: 1500, files: 3}
	for name, a := range map[string][]byte{
		"large":  archiveOf(t, "1.xml", strings.Repeat("\x00", 1001)),
		"many":   archiveOf(t, "1.xml", "", "2.xml", "", "3.xml", "", "4.xml", ""),
		"halves": archiveOf(t, "1.xml", strings.Repeat(" ", 999), "2.xml", strings.Repeat(" ", 999)),
	} {
		var bomb *BombError
		if _, err := small.document(a, "20240131000327", 1000); !errors.As(err, &bomb) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var bomb *BombError
	list := archiveOf(t, "CORPCODE.xml", "<result>"+strings.Repeat(" ", 1000)+"</result>")
	if err := small.companies(list, func(Company) error { return nil }); !errors.As(err, &bomb) {
		t.Errorf("list of companies: %v", err)
	}
}

// TestABombOfRealSize unpacks to more than is read, from 100 kB.
func TestABombOfRealSize(t *testing.T) {
	t.Parallel()
	var bomb *BombError
	if _, err := usual.document(archiveOf(t, "1.xml", strings.Repeat("\x00", int(usual.member)+1)), "20240131000327", 1000); !errors.As(err, &bomb) {
		t.Error(err)
	}
}

func TestBrokenArchives(t *testing.T) {
	t.Parallel()
	whole := archiveOf(t, "1.xml", strings.Repeat("<p>가나다</p>", 1000))
	for n := 0; n < len(whole); n += 7 {
		if text, err := usual.document(whole[:n], "20240131000327", 1000); err == nil {
			t.Errorf("of %d bytes: %q", n, text)
		}
	}
}

// TestDocumentErrors: the archive endpoints answer errors as XML in an HTTP 200.
func TestDocumentErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clientOf(func(*http.Request) (int, []byte, error) { return 200, fixture(t, "dart_err_013.xml"), nil }, &quotaMap{})
		var status *StatusError
		if _, err := c.Document(t.Context(), "20240131000327", 10); !errors.As(err, &status) || status.Status != NoData {
			t.Errorf("%v", err)
		}
	})
}

func TestCompaniesSample(t *testing.T) {
	t.Parallel()
	c := clientOf(func(*http.Request) (int, []byte, error) { return 200, fixture(t, "corpcode_sample.zip"), nil }, &quotaMap{})
	var got []string
	err := c.Companies(t.Context(), func(c Company) error {
		got = append(got, fmt.Sprint(c.Code, " ", c.Name, " ", c.StockCode))
		return nil
	})
	if want := "[00126380 삼성전자 005930 00999992 가상알파 0068Y0]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
	stop := errors.New("enough")
	if err := c.Companies(t.Context(), func(Company) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v, want what yield says", err)
	}
	if err := usual.companies(archiveOf(t, "other.xml", ""), nil); err == nil {
		t.Error("an archive without the list was read")
	}
}

func TestStrip(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"<P>a</P><P>b</P>":                        "a\nb",
		"<TR><TD>a</TD><TD>b</TD></TR>":           "a b",
		"x < y & z > 1":                           "x < y & z > 1",
		"a <b and no end":                         "a <b and no end",
		"R&amp;D &lt;b&gt;":                       "R&D <b>",
		"<!-- <p>no</p> -->yes":                   "yes",
		"<?xml version=\"1.0\"?><A B=\"c\">t</A>": "t",
		"<!-- open":                               "",
		"a\x00b":                                  "a b",
		"<span>이</span>어":                         "이어",
		"1<2":                                     "1<2",
	} {
		if got := Strip(in, 1000); got != want {
			t.Errorf("Strip(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzStrip(f *testing.F) {
	f.Add([]byte("<P>a < b & c</P><!-- x"), 10)
	f.Add([]byte("\xb6\xca\xb9\xe6"), 3)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		limit = min(max(limit, 1), 1<<16)
		text := Strip(Decode(b), limit)
		if !utf8.ValidString(text) || len(text) > limit || strings.ContainsRune(text, 0) {
			t.Errorf("%d bytes of %d, %q", len(text), limit, text)
		}
	})
}

func FuzzArchive(f *testing.F) {
	f.Add(fixture(f, "document_sample.zip"))
	f.Add(fixture(f, "corpcode_sample.zip"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = usual.document(b, "20240131000327", 1000)
		_ = usual.companies(b, func(Company) error { return nil })
	})
}
