package page

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/fleet"
	"github.com/embedfleet/embedfleet/monitoring/login"
	"github.com/embedfleet/embedfleet/monitoring/words"
)

const (
	// pace is the least time between two messages of a stream: parts of a snapshot come one by one.
	pace = time.Second
	// heartbeat is the most; it carries the age of what is shown when nothing new comes.
	heartbeat = 4 * time.Second
	// sendTimeout ends a stream whose browser takes nothing: it sleeps, and comes back by itself.
	sendTimeout = 20 * time.Second
)

type buffer = bytes.Buffer

// A fragment is a piece of the page that is replaced as a whole, or, if only some of its rows differ, row by
// row.
type fragment struct {
	ID   string
	html string
	rows []fragment
}

// A swap is a fragment as the browser gets it.
type swap struct {
	ID   string `json:"id"`
	HTML string `json:"html"`
}

// changes returns what a browser needs that shows old.
func changes(old, now []fragment) (list []swap) {
	for i, f := range now {
		switch {
		case i >= len(old) || old[i].ID != f.ID:
			list = append(list, swap{f.ID, f.html})
		case old[i].html == f.html:
		case !sameRows(old[i], f):
			list = append(list, swap{f.ID, f.html})
		default:
			for n, row := range f.rows {
				if row.html != old[i].rows[n].html { //nolint:gosec // sameRows has counted them
					list = append(list, swap{row.ID, row.html})
				}
			}
		}
	}
	return list
}

// sameRows reports whether two versions of a fragment differ in their rows only, and have the same ones. What is
// around the rows is what is left when they are cut out.
func sameRows(a, b fragment) bool {
	if len(a.rows) == 0 || len(a.rows) != len(b.rows) {
		return false
	}
	around, other := a.html, b.html
	for i := range a.rows {
		if a.rows[i].ID != b.rows[i].ID {
			return false
		}
		around = strings.Replace(around, a.rows[i].html, "", 1)
		other = strings.Replace(other, b.rows[i].html, "", 1)
	}
	return around == other
}

// A cache keeps the fragments of the latest snapshot, for all that look at it in the same way.
type cache struct {
	mu      sync.Mutex
	version string
	looks   map[look][]fragment
}

// fragments returns the page's pieces.
func (p *Page) fragments(s *fleet.Snapshot, l look) ([]fragment, error) {
	p.cache.mu.Lock()
	defer p.cache.mu.Unlock()
	// Ages grow without a new snapshot; they are drawn again each second.
	now := time.Now()
	version := fmt.Sprint(s.Number, p.orders.number(), now.Unix())
	if p.cache.version != version {
		p.cache.version, p.cache.looks = version, map[look][]fragment{}
	}
	if list, ok := p.cache.looks[l]; ok {
		return list, nil
	}
	list, err := p.draw(p.view(s, l, now))
	if err == nil {
		p.cache.looks[l] = list
	}
	return list, err
}

// draw executes the templates of all pieces.
func (p *Page) draw(v view) ([]fragment, error) {
	var list []fragment
	for _, name := range []string{"verdict", "orders", "tiles", "lanes", "workers", "sources", "causes", "events"} {
		f, err := p.piece(name, name, v)
		if err != nil {
			return nil, err
		}
		switch name {
		case "lanes":
			for _, m := range v.Models {
				if err := p.row(&f, "model", m.ID, m); err != nil {
					return nil, err
				}
			}
		case "workers":
			for _, w := range v.Workers {
				if err := p.row(&f, "worker", w.ID, w); err != nil {
					return nil, err
				}
			}
		}
		list = append(list, f)
	}
	return list, nil
}

func (p *Page) piece(name, id string, data any) (fragment, error) {
	var b buffer
	err := p.execute(&b, name, data)
	return fragment{ID: id, html: b.String()}, err
}

func (p *Page) row(f *fragment, name, id string, data any) error {
	row, err := p.piece(name, id, data)
	f.rows = append(f.rows, row)
	return err
}

// live streams what changes to a page that shows the fleet. It ends with the request.
func (p *Page) live(w http.ResponseWriter, r *http.Request) {
	l := lookOf(r)
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep it back
	var shown []fragment
	for {
		s, newer := p.parts.Fleet.Snapshot()
		list, err := p.fragments(s, l)
		if err != nil {
			p.log.Error("showing the fleet failed", "err", err)
			return
		}
		_ = out.SetWriteDeadline(time.Now().Add(sendTimeout)) // where it is not supported, the server's own holds
		if send(w, changes(shown, list), stateOf(s, time.Now())) != nil || out.Flush() != nil {
			return // the browser went away
		}
		shown = list
		if !wait(r, newer, p.orders.changed()) {
			return
		}
	}
}

// wait returns true when it is time for the next message.
func wait(r *http.Request, signals ...<-chan struct{}) bool {
	timer := time.NewTimer(pace)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
		return false
	}
	timer.Reset(heartbeat - pace)
	select {
	case <-signals[0]:
	case <-signals[1]:
	case <-timer.C:
	case <-r.Context().Done():
		return false
	}
	return true
}

// A state is what the sign in the page's head says.
type state struct {
	Text  string `json:"text"`
	State string `json:"state"`
}

func stateOf(s *fleet.Snapshot, now time.Time) state {
	parts, since := s.Stale(now)
	switch {
	case len(parts) == 0:
		return state{"live", "on"}
	case since.IsZero():
		return state{"Redis was not reached yet", "stale"}
	default:
		return state{"stale since " + words.Clock(since), "stale"}
	}
}

// send writes one message.
func send(w http.ResponseWriter, swaps []swap, st state) error {
	for name, data := range map[string]any{"swap": swaps, "state": st} {
		text, err := json.Marshal(data)
		if err != nil {
			return fmt.Errorf("encoding a message: %w", err)
		}
		if name == "swap" && len(swaps) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, text); err != nil {
			return fmt.Errorf("sending a message: %w", err)
		}
	}
	return nil
}

func lookOf(r *http.Request) look {
	q := r.URL.Query()
	return look{can: login.From(r.Context()).CanAct(), idle: q.Get("idle") == "show", all: q.Get("all") == "show"}
}
