package registry

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// MaxEvents is how many events are kept; the oldest go.
	MaxEvents = 1000

	eventsKey = "embedfleet:events"
)

// What happened, as [Event] says it. Rooms that steer the fleet add words of their own.
const (
	EventStarted  = "worker started"
	EventReady    = "worker ready"
	EventEnded    = "worker ended"
	EventDraining = "worker draining"
	EventCrashed  = "worker crashed" // its supervisor says so
	EventLost     = "worker lost"    // it fell silent without a word
	EventFailed   = "worker failed"  // given up
	EventZombie   = "worker stuck"
	EventSettings = "settings changed"
	EventRefused  = "settings refused"
	EventDrain    = "drain asked for"
	EventPaused   = "lane paused"
	EventResumed  = "lane resumed"
	EventReplayed = "dead letters replayed"
	EventDropped  = "dead letters dropped"

	EventCancelled = "waiting texts cancelled"
	EventMoved     = "waiting texts moved"
	EventForgotten = "alias forgotten"
)

// An Event is one thing that changed in the fleet, for people: the audit line of what somebody did, or what
// befell a process. It never holds a text.
type Event struct {
	ID    string    `json:"id"` // given by [Events.Append], rising with time
	At    time.Time `json:"at"` // by Redis's clock, to the millisecond
	What  string    `json:"what"`
	Who   string    `json:"who"`             // whoever caused it: a person, or the process that noticed
	Model string    `json:"model,omitempty"` // alias
	About string    `json:"about,omitempty"` // what it happened to: a worker's id, a lane, a source
	Text  string    `json:"text,omitempty"`  // the rest, in words
}

// Events is the list of what changed lately in the fleet, a stream of at most [MaxEvents].
type Events struct{ rdb redis.UniversalClient }

// NewEvents returns a view of the list. The Redis client is the caller's.
func NewEvents(rdb redis.UniversalClient) *Events { return &Events{rdb: rdb} }

// Append adds an event; its ID and At are given by Redis. What may not be empty.
func (e *Events) Append(ctx context.Context, ev Event) error {
	if ev.What == "" {
		return fmt.Errorf("noting an event: it does not say what happened")
	}
	err := e.rdb.XAdd(ctx, &redis.XAddArgs{
		Stream: eventsKey, MaxLen: MaxEvents,
		Values: []any{"what", ev.What, "who", ev.Who, "model", ev.Model, "about", ev.About, "text", ev.Text},
	}).Err()
	if err != nil {
		return fmt.Errorf("noting event %q: %w", ev.What, err)
	}
	return nil
}

// List returns at most limit events, the latest first.
func (e *Events) List(ctx context.Context, limit int) ([]Event, error) {
	found, err := e.rdb.XRevRangeN(ctx, eventsKey, "+", "-", int64(max(1, limit))).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the events: %w", err)
	}
	return eventsOf(found), nil
}

// After returns at most limit events that came after the one with the given id, the latest first. An empty
// id stands for the beginning.
func (e *Events) After(ctx context.Context, id string, limit int) ([]Event, error) {
	start := "-"
	if id != "" {
		start = "(" + id
	}
	found, err := e.rdb.XRangeN(ctx, eventsKey, start, "+", int64(max(1, limit))).Result()
	if err != nil {
		return nil, fmt.Errorf("reading the events after %q: %w", id, err)
	}
	slices.Reverse(found)
	return eventsOf(found), nil
}

func eventsOf(found []redis.XMessage) []Event {
	list := make([]Event, len(found))
	for i, m := range found {
		field := func(name string) string { s, _ := m.Values[name].(string); return s }
		list[i] = Event{
			ID: m.ID, At: idTime(m.ID), What: field("what"), Who: field("who"),
			Model: field("model"), About: field("about"), Text: field("text"),
		}
	}
	return list
}

// idTime is the time in a stream's id, "<Unix milliseconds>-<number>".
func idTime(id string) time.Time {
	ms, _, _ := strings.Cut(id, "-")
	n, _ := strconv.ParseInt(ms, 10, 64) // Redis made it
	return time.UnixMilli(n).UTC()
}
