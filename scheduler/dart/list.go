package dart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
)

// PageSize is what the service allows at most. Its own default is 10.
const PageSize = 100

// A Filing is a row of list.json, cleaned.
type Filing struct {
	Receipt   string // rcept_no, 14 digits; its first 8 are a date, and its order is not that of publication
	Date      string // rcept_dt, YYYYMMDD; there is no time of day
	CorpCode  string // DART's own number, 8 digits, not the stock code
	CorpName  string
	StockCode string // "" if not listed; 6 characters, since 2024 not always digits
	Class     string // Y KOSPI, K KOSDAQ, N KONEX, E other
	Report    string // its name, without the padding
	Filer     string
	Remark    string // flags; 정 is added when a later correction appears, so this may change
}

// A row is a filing as it travels.
type row struct {
	CorpCode  string `json:"corp_code"`
	CorpName  string `json:"corp_name"`
	StockCode string `json:"stock_code"`
	CorpCls   string `json:"corp_cls"`
	ReportNm  string `json:"report_nm"`
	RceptNo   string `json:"rcept_no"`
	FlrNm     string `json:"flr_nm"`
	RceptDt   string `json:"rcept_dt"`
	Rm        string `json:"rm"`
}

func (r row) filing() Filing {
	return Filing{
		Receipt: strings.TrimSpace(r.RceptNo), Date: strings.TrimSpace(r.RceptDt), CorpCode: strings.TrimSpace(r.CorpCode),
		CorpName: squeeze(r.CorpName), StockCode: strings.TrimSpace(r.StockCode), Class: strings.TrimSpace(r.CorpCls),
		Report: squeeze(r.ReportNm), Filer: squeeze(r.FlrNm), Remark: strings.TrimSpace(r.Rm),
	}
}

// squeeze trims a name and makes each run of white space one blank. report_nm comes padded.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

// A Query asks for filings whose date lies in a range of days.
type Query struct {
	From, To time.Time // Korean days, both included
	Page     int       // from 1
	Class    string    // one of Y K N E, "" for all
	CorpCode string    // "" for all; required for a range of more than three months
	// Final leaves out filings that were corrected later. A crawler wants all.
	Final bool
}

func (q Query) values() url.Values {
	v := url.Values{
		"bgn_de": {q.From.In(scheduler.KST).Format("20060102")}, "end_de": {q.To.In(scheduler.KST).Format("20060102")},
		"page_no": {strconv.Itoa(max(q.Page, 1))}, "page_count": {strconv.Itoa(PageSize)}, "last_reprt_at": {"N"},
	}
	if q.Final {
		v.Set("last_reprt_at", "Y")
	}
	if q.Class != "" {
		v.Set("corp_cls", q.Class)
	}
	if q.CorpCode != "" {
		v.Set("corp_code", q.CorpCode)
	}
	return v
}

// A Page is an answer of list.json. No data is a page without filings, not an error.
type Page struct {
	Number, Pages, Total int
	Filings              []Filing
	Bad                  int // rows without a receipt number
}

// List asks for one page of filings, in the service's order: the newest day first.
func (c *Client) List(ctx context.Context, q Query) (Page, error) {
	const endpoint = "list.json"
	body, err := c.get(ctx, endpoint, q.values(), maxList)
	var status *StatusError
	if errors.As(err, &status) && status.Status.Action() == Empty {
		return Page{Number: 1}, nil
	}
	if err != nil {
		return Page{}, fmt.Errorf("listing filings: %w", err)
	}
	page, err := parsePage(body)
	if err != nil {
		return Page{}, fmt.Errorf("listing filings: %w", c.unreadable(endpoint, http.StatusOK, body, err))
	}
	return page, nil
}

// parsePage reads the body of a list.json whose status is 000.
func parsePage(body []byte) (Page, error) {
	var answer struct {
		PageNo     int   `json:"page_no"`
		TotalCount int   `json:"total_count"`
		TotalPage  int   `json:"total_page"`
		List       []row `json:"list"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Page{}, fmt.Errorf("reading a page: %w", err)
	}
	page := Page{Number: answer.PageNo, Pages: answer.TotalPage, Total: answer.TotalCount}
	for _, r := range answer.List {
		f := r.filing()
		if !isReceipt(f.Receipt) || f.Report == "" {
			page.Bad++
			continue
		}
		page.Filings = append(page.Filings, f)
	}
	return page, nil
}

// isReceipt reports whether s can be a receipt number.
func isReceipt(s string) bool {
	return len(s) == 14 && strings.Trim(s, "0123456789") == ""
}
