package imitation

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/samples"
)

// kst is Korea's time.
var kst = time.FixedZone("KST", 9*60*60)

// sampleDay is the day of the sample filings.
var sampleDay = time.Date(2022, 1, 3, 0, 0, 0, 0, kst)

// A Filing is a row of list.json and when the list begins to show it.
type Filing struct {
	At        time.Time `json:"-"`
	CorpCode  string    `json:"corp_code"`
	CorpName  string    `json:"corp_name"`
	StockCode string    `json:"stock_code"`
	CorpCls   string    `json:"corp_cls"`
	ReportNm  string    `json:"report_nm"`
	RceptNo   string    `json:"rcept_no"`
	FlrNm     string    `json:"flr_nm"`
	RceptDt   string    `json:"rcept_dt"`
	Rm        string    `json:"rm"`
}

// RealDay returns the 502 filings of 3 January 2022, newest first, moved by whole days so that they appear on
// day. Names are padded with blanks as the service pads them.
func RealDay(day time.Time) ([]Filing, error) {
	docs, err := samples.Korean()
	if err != nil {
		return nil, err
	}
	y, m, d := day.In(kst).Date()
	shift := time.Date(y, m, d, 0, 0, 0, 0, kst).Sub(sampleDay)
	move := func(date string) (string, error) {
		at, err := time.ParseInLocation("20060102", date, kst)
		return at.Add(shift).Format("20060102"), err
	}
	var list []Filing
	for _, doc := range docs {
		receipt, ok := strings.CutPrefix(doc.ID, "dart:")
		if !ok {
			continue
		}
		number, err1 := move(receipt[:8])
		date, err2 := move(doc.Fields["rcept_dt"])
		if err := cmp.Or(err1, err2); err != nil {
			return nil, fmt.Errorf("moving filing %s: %w", receipt, err)
		}
		f := Filing{
			At: doc.PublishedAt.Add(shift), CorpCode: corpCode(doc.Fields["corp_name"]), CorpName: doc.Fields["corp_name"],
			CorpCls: doc.Fields["corp_cls"], ReportNm: doc.Title + strings.Repeat(" ", 14), RceptNo: number + receipt[8:],
			FlrNm: doc.Fields["flr_nm"], RceptDt: date, Rm: doc.Fields["rm"],
		}
		if len(doc.StockCodes) > 0 {
			f.StockCode = doc.StockCodes[0]
		}
		list = append(list, f)
	}
	return list, nil
}

// corpCode makes up a company's number, which the samples do not carry.
func corpCode(name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return fmt.Sprintf("%08d", h.Sum32()%100_000_000)
}

// Options may be nil.
type Options struct {
	Key   string           // the only key that is accepted; "" accepts all
	Quota int              // calls a Korean day, 0 for no bound
	Now   func() time.Time // default time.Now
	// Before is called with each request and may answer it in the service's place, by a status, or by an
	// HTTP code and a body. Zero values let the request pass.
	Before func(r *http.Request) (status string, code int, body string)
}

// A DART is an imitation of OpenDART. It is safe for concurrent use.
type DART struct {
	opts    Options
	filings []Filing // newest first

	mu    sync.Mutex
	calls map[string]int // by Korean day
}

// NewDART returns an imitation that shows filings from their time on.
func NewDART(filings []Filing, opts *Options) *DART {
	d := &DART{filings: slices.Clone(filings), calls: map[string]int{}}
	if opts != nil {
		d.opts = *opts
	}
	if d.opts.Now == nil {
		d.opts.Now = time.Now
	}
	return d
}

// Calls returns how many requests came in, over all days.
func (d *DART) Calls() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, calls := range d.calls {
		n += calls
	}
	return n
}

// ServeHTTP answers list.json, document.xml and corpCode.xml below any path.
func (d *DART) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	endpoint := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	form := inJSON
	if strings.HasSuffix(endpoint, ".xml") {
		form = inXML
	}
	if status, done := d.refuse(w, r); done {
		return
	} else if status != "" {
		answer(w, status, form)
		return
	}
	switch endpoint {
	case "list.json":
		d.list(w, r)
	case "document.xml":
		d.document(w, r)
	case "corpCode.xml":
		d.companies(w)
	default:
		http.NotFound(w, r)
	}
}

// refuse returns the status of a call that is not answered with data, or answers it itself.
func (d *DART) refuse(w http.ResponseWriter, r *http.Request) (status string, done bool) {
	today := d.opts.Now().In(kst).Format("20060102")
	d.mu.Lock()
	d.calls[today]++
	calls := d.calls[today]
	d.mu.Unlock()
	if d.opts.Before != nil {
		status, code, body := d.opts.Before(r)
		if code != 0 {
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body)) // the client went away
			return "", true
		}
		if status != "" {
			return status, false
		}
	}
	switch {
	case d.opts.Key != "" && r.URL.Query().Get("crtfc_key") != d.opts.Key:
		return "010", false
	case d.opts.Quota > 0 && calls > d.opts.Quota:
		return "020", false
	default:
		return "", false
	}
}

// The forms of an answer without data: that of list.json, and that of the endpoints that send archives.
const (
	inJSON = `{"status":"STATUS","message":"."}`
	inXML  = `<?xml version="1.0" encoding="UTF-8" standalone="yes"?><result><status>STATUS</status><message>.</message></result>`
)

// answer writes a status, with HTTP 200 as the service does.
func answer(w http.ResponseWriter, status, form string) {
	body := strings.Replace(form, "STATUS", status, 1)
	_, _ = io.WriteString(w, body) //nolint:gosec // the status is a test's; and the client may go away
}

// A listAnswer is the body of list.json, its keys in the service's order.
type listAnswer struct {
	Status     string   `json:"status"`
	Message    string   `json:"message"`
	PageNo     int      `json:"page_no"`
	PageCount  int      `json:"page_count"`
	TotalCount int      `json:"total_count"`
	TotalPage  int      `json:"total_page"`
	List       []Filing `json:"list"`
}

// list answers list.json: filings of a range of days that the list shows by now, newest first.
func (d *DART) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	from, err1 := time.ParseInLocation("20060102", q.Get("bgn_de"), kst)
	to, err2 := time.ParseInLocation("20060102", q.Get("end_de"), kst)
	size, _ := strconv.Atoi(cmp.Or(q.Get("page_count"), "10")) // 0 is refused below
	page, _ := strconv.Atoi(cmp.Or(q.Get("page_no"), "1"))
	if err1 != nil || err2 != nil || size < 1 || size > 100 || page < 1 || to.After(from.AddDate(0, 3, 0)) {
		answer(w, "100", inJSON)
		return
	}
	var found []Filing
	now := d.opts.Now()
	for _, f := range d.filings {
		if !f.At.After(now) && f.RceptDt >= q.Get("bgn_de") && f.RceptDt <= q.Get("end_de") &&
			(q.Get("corp_cls") == "" || q.Get("corp_cls") == f.CorpCls) {
			found = append(found, f)
		}
	}
	first := (page - 1) * size
	if first >= len(found) {
		answer(w, "013", inJSON)
		return
	}
	slices.SortStableFunc(found, func(a, b Filing) int { return strings.Compare(b.RceptDt, a.RceptDt) })
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	body, err := json.Marshal(listAnswer{
		Status: "000", Message: "정상", PageNo: page, PageCount: size, TotalCount: len(found),
		TotalPage: (len(found) + size - 1) / size, List: found[first:min(first+size, len(found))],
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(body) // the client went away
}

// document answers document.xml with a short body that declares an encoding it does not have.
func (d *DART) document(w http.ResponseWriter, r *http.Request) {
	number := r.URL.Query().Get("rcept_no")
	i := slices.IndexFunc(d.filings, func(f Filing) bool { return f.RceptNo == number && !f.At.After(d.opts.Now()) })
	if i < 0 {
		answer(w, "014", inXML)
		return
	}
	f := d.filings[i]
	archive(w, number+".xml", fmt.Sprintf(`<?xml version="1.0" encoding="euc-kr"?><DOCUMENT><BODY><P>%s</P><P>%s R&D < 1</P></BODY></DOCUMENT>`,
		f.CorpName, strings.TrimSpace(f.ReportNm)))
}

// companies answers corpCode.xml.
func (d *DART) companies(w http.ResponseWriter) {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?><result>`)
	seen := map[string]bool{}
	for _, f := range d.filings {
		if seen[f.CorpCode] {
			continue
		}
		seen[f.CorpCode] = true
		name := strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(f.CorpName)
		fmt.Fprintf(&b, "<list><corp_code>%s</corp_code><corp_name>%s</corp_name><stock_code>%s</stock_code><modify_date>20220103</modify_date></list>",
			f.CorpCode, name, cmp.Or(f.StockCode, " "))
	}
	b.WriteString(`</result>`)
	archive(w, "CORPCODE.xml", b.String())
}

func archive(w http.ResponseWriter, name, content string) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	if f, err := z.Create(name); err == nil {
		_, _ = f.Write([]byte(content)) // into memory
	}
	_ = z.Close()
	w.Header().Set("Content-Type", "application/x-msdownload")
	_, _ = w.Write(b.Bytes()) // the client went away
}
