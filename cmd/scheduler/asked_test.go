package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/scheduler/dart"
	"github.com/embedfleet/embedfleet/scheduler/ledger"
)

// TestASlotThatAnOperatorAskedFor is run by a scheduler that runs, and told among the fleet's events.
func TestASlotThatAnOperatorAskedFor(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	rdb := s.rdb.Client()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() {
		status, _ := s.call(ctx)
		ended <- status
	}()
	l := ledger.New(rdb)
	if err := l.Ask(t.Context(), dart.Source, dart.JobCompanies, "ann"); err != nil {
		t.Fatal(err)
	}
	var told []registry.Event
	for deadline := time.Now().Add(time.Minute); len(told) == 0 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		list, err := registry.NewEvents(rdb).List(t.Context(), 50)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.About == dart.JobCompanies && strings.HasPrefix(e.What, "slot ") {
				told = append(told, e)
			}
		}
		if len(told) > 0 && told[0].What == "slot by hand failed" && strings.Contains(told[0].Text, "under way") {
			told = nil // the slot itself was running: ask again
			if err := l.Ask(t.Context(), dart.Source, dart.JobCompanies, "ann"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(told) == 0 {
		t.Fatalf("nobody ran it: %s", s.errs.String())
	}
	if e := told[0]; e.What != "slot run by hand" || e.Who != "ann" || !strings.Contains(e.Text, "1 requests") {
		t.Errorf("the fleet is told %+v", e)
	}
	stop()
	if status := <-ended; status != 0 {
		t.Errorf("the scheduler ended with status %d: %s", status, s.errs.String())
	}
}
