package dart

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// Source is the documents' source.
const Source = "dart"

// corrections are the marks before a report's name that make it a correction of an earlier one.
var corrections = []string{
	"기재정정", "첨부정정", "첨부추가", "변경등록", "연장결정", "발행조건확정", "정정명령부과", "정정제출요구",
}

// Split returns a report's name without its leading marks, and the marks that say that it is a correction.
// Marks may be several, "[첨부정정][기재정정]"; a bracket of another meaning is part of the name.
func (f Filing) Split() (name string, marks []string) {
	name = f.Report
	for strings.HasPrefix(name, "[") {
		mark, rest, ok := strings.Cut(name[1:], "]")
		if !ok || !slices.Contains(corrections, mark) {
			break
		}
		marks, name = append(marks, mark), strings.TrimSpace(rest)
	}
	return name, marks
}

// ID is the document's.
func (f Filing) ID() string { return Source + ":" + f.Receipt }

// URL shows the filing to people.
func (f Filing) URL() string { return "https://dart.fss.or.kr/dsaf001/main.do?rcpNo=" + f.Receipt }

// kind is the key under which a company's latest report of a name is remembered.
func (f Filing) kind() string {
	name, _ := f.Split()
	sum := sha256.Sum256([]byte(f.CorpCode + "|" + name))
	return hex.EncodeToString(sum[:8])
}

// Document turns a filing into what is embedded: the company's and the report's name. The service tells no
// time of day, so seen, the time the filing was first seen, stands as the time of publication where that is
// on the filing's own day, and field published_from says which it is.
//
// The remark is not part of the text: it changes when a correction appears.
func (f Filing) Document(seen time.Time) vector.Document {
	d := vector.Document{
		ID: f.ID(), Text: strings.TrimSpace(f.CorpName + " " + f.Report), Title: f.Report, Source: Source, URL: f.URL(),
		PublishedAt: seen.UTC().Truncate(time.Second),
		Fields: map[string]string{
			"corp_code": f.CorpCode, "corp_name": f.CorpName, "corp_cls": f.Class, "flr_nm": f.Filer,
			"rcept_dt": f.Date, "published_from": "first_seen",
		},
	}
	if today, _ := day(seen); today != f.Date {
		if at, err := time.Parse("20060102 -0700", f.Date+" +0900"); err == nil {
			d.PublishedAt = at.UTC()
			d.Fields["published_from"] = "rcept_dt"
		}
	}
	if f.StockCode != "" {
		d.StockCodes = []string{f.StockCode}
	}
	if f.Remark != "" {
		d.Fields["rm"] = f.Remark
	}
	if _, marks := f.Split(); len(marks) > 0 {
		d.Fields["correction"] = strings.Join(marks, ",")
	}
	for name, value := range d.Fields {
		if value == "" {
			delete(d.Fields, name)
		}
	}
	return d
}

// A Filter says which filings are wanted. The zero value wants all.
type Filter struct {
	ListedOnly bool
	Classes    string   // letters of corp_cls, "" for all
	Companies  []string // stock codes or DART's company codes, none for all
}

// Wants reports whether f passes.
func (w Filter) Wants(f Filing) bool {
	switch {
	case w.ListedOnly && f.StockCode == "":
		return false
	case w.Classes != "" && (f.Class == "" || !strings.Contains(w.Classes, f.Class)):
		return false
	case len(w.Companies) == 0:
		return true
	default:
		return f.StockCode != "" && slices.Contains(w.Companies, f.StockCode) || slices.Contains(w.Companies, f.CorpCode)
	}
}
