package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
	"github.com/embedfleet/embedfleet/vector"
)

// TestWaitingTextsByHand moves some, cancels others and forgets the alias, over a real Redis.
func TestWaitingTextsByHand(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t)
	rdb := server.Client()
	enqueue(t, rdb, tasks.Live, 40)
	m := start(t, "--redis-url", server.URL())
	m.eventually("/", field("pending", "40"))

	m.eventually("/act?do=move-waiting&model=minilm&to=backfill&id=live-7", "This choice holds 1 waiting text now.")
	m.order("do=move-waiting&model=minilm&to=backfill&id=live-7")
	m.eventually("/", "1 text moved to backfill.")
	if live, backfill := laneStatus(t, rdb, tasks.Live), laneStatus(t, rdb, tasks.Backfill); live.Pending != 39 || backfill.Pending != 1 {
		t.Errorf("after the move %d wait in live, %d in backfill", live.Pending, backfill.Pending)
	}
	m.eventually("/act?do=cancel-waiting&model=minilm&lane=live", "This choice holds 39 waiting texts now.")
	m.order("do=cancel-waiting&model=minilm&lane=live")
	m.eventually("/", "39 texts cancelled.")
	if live, backfill := laneStatus(t, rdb, tasks.Live), laneStatus(t, rdb, tasks.Backfill); live.Pending != 0 || live.Dead != 0 || backfill.Pending != 1 {
		t.Errorf("after cancelling %d wait and %d are dead in live, %d wait in backfill", live.Pending, live.Dead, backfill.Pending)
	}
	m.eventually("/act?do=cancel-waiting&model=minilm&source=nobody", "No waiting text fits this choice.")

	workers := registry.NewWorkers(rdb)
	w := registry.Worker{ID: "w1", Name: "one", Model: alias, State: registry.StateReady}
	if err := workers.Put(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	m.order("do=forget-model&model=minilm")
	m.eventually("/", "it is in use: 1 workers serve it; drain them first")
	if err := workers.Remove(t.Context(), w.ID); err != nil {
		t.Fatal(err)
	}
	m.order("do=forget-model&model=minilm")
	m.eventually("/", "Forgotten;")
	if left, err := queue.NewLanes(rdb).Models(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("after forgetting the queue knows %v, %v", left, err)
	}

	events, err := registry.NewEvents(rdb).List(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	var noted []string
	for _, e := range slices.Backward(events) {
		noted = append(noted, fmt.Sprintf("%s: %s: %s %s: %s", e.Who, e.What, e.Model, e.About, strings.TrimLeft(e.Text, "0123456789")))
	}
	want := "local: waiting texts moved: minilm live-7:  text moved to backfill; local: waiting texts cancelled: minilm live:  texts cancelled; local: alias forgotten: minilm :  keys"
	if got := strings.Join(noted, "; "); got != want {
		t.Errorf("noted are %q, want %q", got, want)
	}
}

// waitingTexts cancels what waits of one source, after a look at how many that is, moves the rest to where workers
// take it, and forgets an alias that nobody serves; the one that is served can't be.
func (s *stage) waitingTexts(t *testing.T, ann *tab) {
	if err := s.fleet.Lanes.Pause(t.Context(), alias, tasks.Backfill); err != nil {
		t.Fatal(err)
	}
	var docs []vector.Document
	for i := range 35 {
		source := "mistake"
		if i < 5 {
			source = "wanted"
		}
		docs = append(docs, vector.Document{ID: fmt.Sprintf("%s:%d", source, i), Text: fmt.Sprintf("Text %d waits.", i), Source: source})
	}
	s.enqueue(t, tasks.Backfill, docs...)
	lost, err := tasks.New("gone", tasks.Live, vector.Document{ID: "lost:1", Text: "nobody serves its alias"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.fleet.Queue.Enqueue(t.Context(), []tasks.Task{lost}); err != nil {
		t.Fatal(err)
	}
	b := s.beside(t, ann)
	b.open("/")
	b.until(cell(tasks.Backfill, "pending") + ` === "35" && document.querySelector("#model-gone")`)
	s.shoot(b, "fleet-waiting-1400-light")
	button := `form[method="post"][action="/act"] button`
	b.click("#model-" + alias + ` a[href*="cancel-waiting"]`)
	b.until(`document.querySelector(".holds")?.innerText.includes("35 waiting texts")`)
	b.do(chromedp.SetValue(chromedp.CSS("select[name=lane]"), "backfill"))
	b.fill("input[name=source]", "mistake")
	b.click(".choice button")
	b.until(`document.querySelector(".holds")?.innerText.includes("30 waiting texts")`)
	s.lookAt(s.beside(t, ann), "waiting", js[string](b, "location.pathname + location.search"))
	b.click(button)
	b.until(`location.pathname === "/" && document.querySelector("#orders").innerText.includes("30 texts cancelled.")`)
	if l := s.lane(t, tasks.Backfill); l.Pending != 5 {
		t.Errorf("%d texts wait, want the other 5", l.Pending)
	}

	b.open("/act?do=move-waiting&model=" + alias + "&lane=backfill&to=live")
	b.click(button)
	b.until(`location.pathname === "/" && document.querySelector("#orders").innerText.includes("5 texts moved to live.")`)
	s.eventually("what was moved is done", func() bool {
		l := s.lane(t, tasks.Live)
		return s.lane(t, tasks.Backfill).Pending+l.Pending+l.Active == 0
	})

	b.click(`#model-gone a[href*="forget-model"]`)
	b.until(`document.querySelector(".holds")?.innerText.includes("1 waiting text ")`)
	b.click(button)
	b.until(`location.pathname === "/" && document.querySelector("#orders").innerText.includes("Forgotten;") && !document.querySelector("#model-gone")`)
	b.click("#model-" + alias + ` a[href*="forget-model"]`)
	b.until(`document.querySelector(".holds")`)
	b.click(button)
	b.until(`document.querySelector("#orders")?.innerText.includes("workers serve it; drain them first")`)
	if err := s.fleet.Lanes.Resume(t.Context(), alias, tasks.Backfill); err != nil {
		t.Fatal(err)
	}
}
