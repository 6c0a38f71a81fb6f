package queue

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// enqueue hands tasks to the queue and fails the test unless all are accepted.
func enqueue(t *testing.T, c *Client, list ...tasks.Task) []Receipt {
	t.Helper()
	receipts, err := c.Enqueue(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range receipts {
		if !r.State.Accepted() {
			t.Fatalf("task %s: %s, %v", r.ID, r.State, r.Err)
		}
	}
	return receipts
}

// laneStatus returns how the lanes of the model "m" stand.
func laneStatus(t *testing.T, rdb redis.UniversalClient) map[tasks.Lane]LaneStatus {
	t.Helper()
	list, err := NewLanes(rdb).Status(context.WithoutCancel(t.Context()), "m")
	if err != nil {
		t.Fatal(err)
	}
	byLane := map[tasks.Lane]LaneStatus{}
	for _, s := range list {
		byLane[s.Lane] = s
	}
	return byLane
}
