package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/vector"
)

// kst is Korea's time, which has had no summer time since 1988.
var kst = time.FixedZone("KST", 9*60*60)

// day is the one the list is of.
const day = "20220103"

// A filing is a row of DART's list.json.
type filing struct {
	CorpName  string `json:"corp_name"`
	StockCode string `json:"stock_code"` // empty or one blank for a company that is not listed
	CorpClass string `json:"corp_cls"`   // Y KOSPI, K KOSDAQ, N KONEX, E other
	Report    string `json:"report_nm"`  // padded with blanks at times
	Receipt   string `json:"rcept_no"`   // 14 digits, the filing's id
	Received  string `json:"rcept_dt"`   // YYYYMMDD
	Filer     string `json:"flr_nm"`
	Remark    string `json:"rm"`
}

// filings reads one real day, newest first as the web's list has it.
func filings(data string) ([]vector.Document, error) {
	dir := filepath.Join(data, "dart", "derived-list-"+day)
	times, err := filingTimes(filepath.Join(dir, "timeline.csv"))
	if err != nil {
		return nil, err
	}
	pages, err := filepath.Glob(filepath.Join(dir, "list_p*.json"))
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	var docs []vector.Document
	for _, page := range pages {
		var list struct {
			List []filing `json:"list"`
		}
		if err := readJSON(page, &list); err != nil {
			return nil, err
		}
		for _, f := range list.List {
			at, ok := times[f.Receipt]
			if !ok {
				return nil, fmt.Errorf("timeline.csv has no time for filing %s", f.Receipt)
			}
			docs = append(docs, f.document(at))
		}
	}
	return docs, nil
}

// filingTimes maps a receipt number to when the list showed it, to the minute. That is on the list's day also
// for the 27 filings that were received on an earlier one.
func filingTimes(name string) (map[string]time.Time, error) {
	rows, err := readRows(name)
	if err != nil {
		return nil, err
	}
	times := make(map[string]time.Time, len(rows))
	for _, row := range rows[1:] { // seq_desc,time_kst,rcept_no,rcept_dt,corp_cls,stock_code
		at, err := time.ParseInLocation("20060102 15:04", day+" "+row[1], kst)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		times[row[2]] = at
	}
	return times, nil
}

func (f filing) document(at time.Time) vector.Document {
	report := strings.TrimSpace(f.Report)
	d := vector.Document{
		ID:          "dart:" + f.Receipt,
		Text:        f.CorpName + " " + report,
		Title:       report,
		Source:      "dart",
		URL:         "https://dart.fss.or.kr/dsaf001/main.do?rcpNo=" + f.Receipt,
		PublishedAt: at,
		Fields:      map[string]string{"corp_name": f.CorpName, "corp_cls": f.CorpClass, "flr_nm": f.Filer, "rcept_dt": f.Received},
	}
	if code := strings.TrimSpace(f.StockCode); code != "" {
		d.StockCodes = []string{code}
	}
	if f.Remark != "" {
		d.Fields["rm"] = f.Remark
	}
	return d
}
