package fleet

import (
	"sync"
	"time"

	"github.com/embedfleet/embedfleet/queue"
)

const (
	// trendStep is the time that one point of a trend stands for, trendPoints how many make the hour.
	trendStep   = 30 * time.Second
	trendPoints = 120
)

// A Trend is the last hour of one lane, or of the fleet: one point for each half minute, the last one still
// growing. It holds fewer points than an hour has if nobody looked for longer.
type Trend struct {
	End     time.Time // of the last point
	Pending []float64 // the most that waited
	Rate    []float64 // tasks a second that were done
	Dead    []float64 // dead letters at the end of the point
}

// Grew returns by how many the dead letters grew in the hour, 0 if they became fewer.
func (t Trend) Grew() int64 {
	if len(t.Dead) < 2 {
		return 0
	}
	return max(0, int64(t.Dead[len(t.Dead)-1]-t.Dead[0]))
}

// Rising reports whether more waits than half the span of points ago, by at least a tenth.
func (t Trend) Rising(points int) bool {
	n := len(t.Pending)
	if n < points {
		return false
	}
	before, now := t.Pending[n-points], t.Pending[n-1]
	return now > before*1.1+10
}

// hours keeps the trends of all lanes. The whole fleet is the lane with no name.
type hours struct {
	mu    sync.Mutex
	lanes map[Lane]*hour
}

// An hour is the ring of one lane.
type hour struct {
	points    []point // the latest last
	processed int64   // counter at the end of the point before the last
	seen      int64   // counter when last looked at
}

type point struct {
	begin         time.Time
	pending, dead int64
	rate          float64
}

func newHours() *hours { return &hours{lanes: map[Lane]*hour{}} }

// add takes a reading in and returns all trends. Lanes that are gone are forgotten.
func (h *hours) add(now time.Time, list []queue.LaneStatus) map[Lane]Trend {
	h.mu.Lock()
	defer h.mu.Unlock()
	trends := make(map[Lane]Trend, len(list)+1)
	var all queue.LaneStatus
	for _, l := range list {
		key := Lane{l.Model, l.Lane}
		trends[key] = h.lane(key).add(now, l)
		all.Pending += l.Pending
		all.Processed += l.Processed
		all.Dead += l.Dead
	}
	trends[Lane{}] = h.lane(Lane{}).add(now, all)
	for key := range h.lanes {
		if _, ok := trends[key]; !ok {
			delete(h.lanes, key)
		}
	}
	return trends
}

func (h *hours) lane(key Lane) *hour {
	one := h.lanes[key]
	if one == nil {
		one = &hour{}
		h.lanes[key] = one
	}
	return one
}

func (h *hour) add(now time.Time, l queue.LaneStatus) Trend {
	begin := now.Truncate(trendStep)
	if n := len(h.points); n == 0 || h.points[n-1].begin.Before(begin) {
		if n == 0 || l.Processed < h.seen { // the first look, or the counter began anew
			h.seen = l.Processed
		}
		h.processed = h.seen
		h.points = append(h.points, point{begin: begin})
	}
	for len(h.points) > 0 && h.points[0].begin.Before(begin.Add(-(trendPoints-1)*trendStep)) {
		h.points = h.points[1:]
	}
	last := &h.points[len(h.points)-1]
	last.pending = max(last.pending, l.Pending)
	last.dead = l.Dead
	// A point that has just begun would tell a rate out of a second or two; it takes over its neighbour's until then.
	if passed := now.Sub(begin); passed >= trendStep/3 {
		last.rate = float64(max(0, l.Processed-h.processed)) / passed.Seconds()
	} else if n := len(h.points); n > 1 {
		last.rate = h.points[n-2].rate
	}
	h.seen = l.Processed
	return h.trend(begin.Add(trendStep))
}

// trend lays the points on the hour that ends at end. Times at which nobody looked repeat what was known.
func (h *hour) trend(end time.Time) Trend {
	first := h.points[0].begin
	n := int(end.Sub(first) / trendStep)
	t := Trend{End: end, Pending: make([]float64, n), Rate: make([]float64, n), Dead: make([]float64, n)}
	next := 0
	for i := range n {
		at := first.Add(time.Duration(i) * trendStep)
		for next+1 < len(h.points) && !h.points[next+1].begin.After(at) {
			next++
		}
		p := h.points[next]
		t.Pending[i], t.Rate[i], t.Dead[i] = float64(p.pending), p.rate, float64(p.dead)
	}
	return t
}
