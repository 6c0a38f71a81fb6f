package page

import (
	"math"
	"slices"
	"strconv"
	"time"
)

const (
	sparkPoints = 60
	sparkWidth  = 120
	sparkHeight = 22
)

// A spark is a small chart of an hour, as paths of an SVG of 120 by 22. What nobody saw is left empty on the
// left.
type spark struct {
	Line, Area string
	Most       float64
	Label      string // for those who can not see it
}

// newSpark draws values, one each half minute up to end, the latest last.
func newSpark(values []float64, end time.Time, label func(now, most float64) string) spark {
	points := minutes(values, end)
	if len(points) == 0 {
		return spark{Label: label(0, 0)}
	}
	top := 0.0
	for _, v := range points {
		top = max(top, v)
	}
	s := spark{Most: top, Label: label(values[len(values)-1], top)}
	if top == 0 || len(points) < 2 {
		return s
	}
	step := float64(sparkWidth) / (sparkPoints - 1)
	x := sparkWidth - step*float64(len(points)-1)
	line := []byte("M")
	for i, v := range points {
		if i > 0 {
			line = append(line, 'L')
		}
		line = strconv.AppendFloat(line, round1(x+step*float64(i)), 'f', -1, 64)
		line = append(line, ' ')
		line = strconv.AppendFloat(line, round1(sparkHeight-1-v/top*(sparkHeight-3)), 'f', -1, 64)
	}
	s.Line = string(line)
	s.Area = s.Line + "L120 22L" + strconv.FormatFloat(round1(x), 'f', -1, 64) + " 22Z"
	return s
}

// minutes joins the two halves of each minute: the larger counts, so that a peak stays one. The last point may be
// of a minute that is half over.
func minutes(values []float64, end time.Time) (out []float64) {
	halfOver := end.Unix()/30%2 == 1
	for i := len(values) - 1; i >= 0; i -= 2 {
		if halfOver && len(out) == 0 {
			out = append(out, values[i])
			i++
			continue
		}
		v := values[i]
		if i > 0 {
			v = max(v, values[i-1])
		}
		out = append(out, v)
	}
	slices.Reverse(out)
	return out
}

func round1(v float64) float64 { return math.Round(v*10) / 10 }
