package page

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/fleet"
	"github.com/embedfleet/embedfleet/monitoring/frame"
	"github.com/embedfleet/embedfleet/monitoring/login"
	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/tasks"
)

const (
	deadPage = 50 // letters
	// deadTimeout bounds the search for letters: a rare cause among a hundred thousand is looked for that long.
	deadTimeout = 5 * time.Second
)

// A deadView is what dead.html shows.
type deadView struct {
	Can     bool
	Model   string
	Lane    tasks.Lane
	Cause   string
	Source  string
	ID      string
	Models  []string
	Lanes   []tasks.Lane
	Codes   []string // causes to choose from
	Causes  []causeView
	Sum     int64 // letters of the model
	Letters []letterView
	Older   string // address of the next page, "" if there is none
	Newest  bool   // this is the first page
	Here    string // address of this page
	Wrong   string
	Orders  []errand
}

// A letterView is a row.
type letterView struct{ upkeep.Letter }

// ShortID is the beginning of the task's id, enough to tell two apart.
func (l letterView) ShortID() string { return l.ID[:min(8, len(l.ID))] }

// Order is the address of the page before an order about the letters that are shown and all others of the choice.
func (v deadView) Order(do string) string {
	return "/act?" + url.Values{"do": {do}, "back": {v.Here}}.Encode() + "&" + v.Query()
}

// Query returns the filter as part of an address.
func (v deadView) Query() string {
	q := url.Values{}
	for name, value := range map[string]string{"model": v.Model, "lane": string(v.Lane), "cause": v.Cause, "source": v.Source, "id": v.ID} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q.Encode()
}

// A place is where a page of letters begins: after those of a lane that are newer, and skip of those of this
// very millisecond. It is written lane-milliseconds-skip.
type place struct {
	lane   tasks.Lane
	before int64 // Unix ms, exclusive; 0 is now
	skip   int
}

func parsePlace(s string) (place, bool) {
	parts := strings.Split(s, "-")
	if len(parts) != 3 || !slices.Contains(tasks.Lanes, tasks.Lane(parts[0])) {
		return place{}, false
	}
	before, err := strconv.ParseInt(parts[1], 10, 64)
	skip, err2 := strconv.Atoi(parts[2])
	ok := err == nil && err2 == nil && before >= 0 && skip >= 0 && skip < 1_000_000
	return place{tasks.Lane(parts[0]), before, skip}, ok
}

func (pl place) String() string {
	return string(pl.lane) + "-" + strconv.FormatInt(pl.before, 10) + "-" + strconv.Itoa(pl.skip)
}

// showDead is the page at /dead.
func (p *Page) showDead(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s, _ := p.parts.Fleet.Snapshot()
	v := deadView{
		Can: login.From(r.Context()).CanAct(), Model: q.Get("model"), Lane: tasks.Lane(q.Get("lane")), Cause: q.Get("cause"),
		Source: q.Get("source"), ID: strings.TrimSpace(q.Get("id")), Lanes: tasks.Lanes, Orders: p.orders.recent(time.Now()),
	}
	v.survey(s)
	from, more := parsePlace(q.Get("from"))
	v.Newest = !more
	v.Here = "/dead?" + v.Query()
	status := http.StatusOK
	if err := needsModel(Order{Model: v.Model, Lane: v.Lane}); v.Model != "" && err != nil {
		p.parts.Frame.Refuse(w, r, http.StatusBadRequest, "There is no such list: "+err.Error()+".")
		return
	}
	if v.Model != "" {
		ctx, cancel := context.WithTimeout(r.Context(), deadTimeout)
		defer cancel()
		list, next, err := p.letters(ctx, v, from)
		for _, l := range list {
			v.Letters = append(v.Letters, letterView{l})
		}
		if next != nil {
			v.Older = v.Here + "&from=" + next.String()
		}
		if err != nil {
			p.log.Warn("reading dead letters for the page failed", "err", err)
			v.Wrong, status = "Redis did not answer in time. Narrow the choice, or try again.", http.StatusServiceUnavailable
		}
	}
	p.parts.Frame.Render(w, r, frame.Page{Title: "Dead letters", Here: "/dead", Status: status, Body: p.dead, Data: v, Styles: []string{"page/page.css"}})
}

// survey fills in what there is to choose from, and chooses the model with most letters if none was.
func (v *deadView) survey(s *fleet.Snapshot) {
	sums := map[string]int64{}
	for _, l := range s.Lanes {
		if sums[l.Model] == 0 && !slices.Contains(v.Models, l.Model) {
			v.Models = append(v.Models, l.Model)
		}
		sums[l.Model] += l.Dead
	}
	most := int64(0)
	if v.Model == "" {
		for _, model := range v.Models {
			if sums[model] > most {
				v.Model, most = model, sums[model]
			}
		}
	}
	v.Sum = sums[v.Model]
	for _, c := range s.Causes {
		if c.Model != v.Model {
			continue
		}
		v.Codes = append(v.Codes, c.Code)
		v.Causes = append(v.Causes, causeView{Cause: c, Can: v.Can, Meaning: fleet.Meaning(c.Code), Share: int(100 * c.Letters / max(1, v.Sum))})
	}
	if v.Cause != "" && !slices.Contains(v.Codes, v.Cause) {
		v.Codes = append(v.Codes, v.Cause)
	}
}

// letters reads a page, the lanes in falling urgency and in each the latest first, and where the next begins.
func (p *Page) letters(ctx context.Context, v deadView, from place) (list []upkeep.Letter, next *place, err error) {
	lanes := tasks.Lanes
	if v.Lane != "" {
		lanes = []tasks.Lane{v.Lane}
	}
	if i := slices.Index(lanes, from.lane); i > 0 {
		lanes = lanes[i:]
	}
	for _, lane := range lanes {
		begin := place{lane: lane}
		if lane == from.lane {
			begin = from
		}
		room := deadPage + 1 - len(list)
		some, err := p.lane(ctx, v, begin, room)
		list = append(list, some...)
		if err != nil {
			return list, nil, err
		}
		if len(list) > deadPage {
			list = list[:deadPage]
			return list, after(list, from), nil
		}
	}
	return list, nil, nil
}

// lane reads at most n letters of one lane from a place on.
func (p *Page) lane(ctx context.Context, v deadView, from place, n int) ([]upkeep.Letter, error) {
	f := upkeep.DeadFilter{Lanes: []tasks.Lane{from.lane}}
	if v.Cause != "" {
		f.Codes = []string{v.Cause}
	}
	if v.Source != "" {
		f.Sources = []string{v.Source}
	}
	if v.ID != "" {
		f.IDs = []string{v.ID}
	}
	if from.before > 0 {
		f.Before = time.UnixMilli(from.before + 1)
	}
	list, err := p.parts.Letters.List(ctx, v.Model, f, from.skip+n)
	return list[min(from.skip, len(list)):], err
}

// after is the place behind the last letter of a page that began at from.
func after(list []upkeep.Letter, from place) *place {
	last := list[len(list)-1]
	next := place{lane: last.Lane, before: last.Last.UnixMilli()}
	for _, l := range list {
		if l.Lane == next.lane && l.Last.UnixMilli() == next.before {
			next.skip++
		}
	}
	if from.lane == next.lane && from.before == next.before {
		next.skip += from.skip
	}
	return &next
}
