package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/queue/upkeep"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// A trap is a bad text: what it says makes a worker that was built for it do something bad.
type trap struct {
	name string
	text string
	// The verdict that it must get.
	code string
	lane tasks.Lane
}

// allTraps are what a run has, one text of each.
var allTraps = []trap{
	{"killer", "This text will kill the worker that embeds it.", upkeep.CodePoison, tasks.Quarantine},
	{"panic", "This text will cause a panic in the worker.", "panic", tasks.Live},
	{"endless", "From this text the worker will never come back.", upkeep.CodeTimeout, tasks.Live},
}

// Bad texts get few tries and little time, or a run would take days.
const (
	trapRetries = 2
	trapTimeout = 3 * time.Second
)

func trapOf(name string) (trap, bool) {
	i := slices.IndexFunc(allTraps, func(t trap) bool { return t.name == name })
	if i < 0 {
		return trap{}, false
	}
	return allTraps[i], true
}

func trapNames(list []trap) string {
	names := make([]string, len(list))
	for i, t := range list {
		names[i] = t.name
	}
	return strings.Join(names, ",")
}

// document is the trap as a producer would hand it in.
func (t trap) document() vector.Document {
	return vector.Document{ID: "trap:" + t.name, Text: t.text}
}

// judge reports whether a dead letter is what the trap must come to, and what it came to.
func (t trap) judge(letters []upkeep.Letter) (verdict string, ok bool) {
	i := slices.IndexFunc(letters, func(l upkeep.Letter) bool { return l.Document == t.document().ID })
	if i < 0 {
		return "no dead letter", false
	}
	l := letters[i]
	return fmt.Sprintf("%s in %s after %d crashes, %d attempts", l.Code, l.Lane, l.Crashes, l.Attempts), l.Code == t.code && l.Lane == t.lane
}
