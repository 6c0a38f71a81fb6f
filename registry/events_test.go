package registry

import (
	"strconv"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestEvents(t *testing.T) {
	t.Parallel()
	events := NewEvents(testkit.Redis(t))
	begun := time.Now().Add(-time.Second)
	if list, err := events.List(t.Context(), 10); err != nil || len(list) > 0 {
		t.Fatalf("of an empty list: %+v, %v", list, err)
	}
	want := Event{What: EventPaused, Who: "kim@desk", Model: "m", About: "live", Text: "of the whole fleet"}
	for _, ev := range []Event{{What: EventStarted, Who: "w1"}, want, {What: EventResumed}} {
		if err := events.Append(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
	}
	if err := events.Append(t.Context(), Event{Who: "w1"}); err == nil {
		t.Error("an event that says nothing was noted")
	}
	list, err := events.List(t.Context(), 2)
	if err != nil || len(list) != 2 || list[0].What != EventResumed {
		t.Fatalf("%+v, %v, want the latest two", list, err)
	}
	got := list[1]
	if got.At.Before(begun) || got.At.After(time.Now().Add(time.Second)) || got.ID == "" {
		t.Errorf("id %q at %v", got.ID, got.At)
	}
	first, err := events.After(t.Context(), "", 1)
	if err != nil || len(first) != 1 || first[0].What != EventStarted {
		t.Errorf("the first: %+v, %v", first, err)
	}
	later, err := events.After(t.Context(), first[0].ID, 10)
	if err != nil || len(later) != 2 || later[0].What != EventResumed || later[1].What != EventPaused {
		t.Errorf("after the first: %+v, %v", later, err)
	}
	got.ID, got.At = "", time.Time{}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	events := NewEvents(rdb)
	for i := range MaxEvents + 5 {
		if err := events.Append(t.Context(), Event{What: EventReady, Text: strconv.Itoa(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := rdb.XLen(t.Context(), eventsKey).Result(); err != nil || n != MaxEvents {
		t.Errorf("%d events, %v, want %d", n, err, MaxEvents)
	}
	list, err := events.List(t.Context(), MaxEvents)
	if err != nil || list[0].Text != strconv.Itoa(MaxEvents+4) || list[len(list)-1].Text != "5" {
		t.Errorf("from %+v to %+v, %v", list[0], list[len(list)-1], err)
	}
}
