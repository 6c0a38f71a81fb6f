package queue

import (
	"fmt"
	"slices"
	"strings"

	"github.com/embedfleet/embedfleet/tasks"
)

const (
	queuePrefix = "embed:"
	// registryKey is the set in which asynq's tools look for queues.
	registryKey = "asynq:queues"
)

// queueName returns the asynq queue of a model's lane, "embed:<alias>:<lane>".
func queueName(model string, lane tasks.Lane) string {
	return queuePrefix + model + ":" + string(lane)
}

// parseQueueName is the inverse of [queueName]. It reports false for a queue that is not one of ours.
func parseQueueName(name string) (model string, lane tasks.Lane, ok bool) {
	rest, ours := strings.CutPrefix(name, queuePrefix)
	model, last, found := strings.Cut(rest, ":")
	lane = tasks.Lane(last)
	if !ours || !found || checkLane(model, lane) != nil {
		return "", "", false
	}
	return model, lane, true
}

// checkLane reports why there is no such lane.
func checkLane(model string, lane tasks.Lane) error {
	if err := tasks.CheckModel(model); err != nil {
		return err
	}
	if !slices.Contains(tasks.Lanes, lane) {
		return fmt.Errorf("lane %q: want one of %v", lane, tasks.Lanes)
	}
	return nil
}

// laneKeys builds the keys of one lane, and is the only place that does. It holds the part they share.
type laneKeys string

func keysOf(model string, lane tasks.Lane) laneKeys {
	return laneKeys("asynq:{" + queueName(model, lane) + "}:")
}

// name is the queue's.
func (k laneKeys) name() string {
	return strings.TrimSuffix(strings.TrimPrefix(string(k), "asynq:{"), "}:")
}

func (k laneKeys) task(id string) string { return k.tasks() + id }
func (k laneKeys) tasks() string         { return string(k) + "t:" } // prefix of every task's hash
func (k laneKeys) pending() string       { return string(k) + "pending" }
func (k laneKeys) active() string        { return string(k) + "active" }
func (k laneKeys) lease() string         { return string(k) + "lease" }
func (k laneKeys) scheduled() string     { return string(k) + "scheduled" }
func (k laneKeys) retry() string         { return string(k) + "retry" }
func (k laneKeys) archived() string      { return string(k) + "archived" }
func (k laneKeys) completed() string     { return string(k) + "completed" }
func (k laneKeys) processed() string     { return string(k) + "processed" } // a counter
func (k laneKeys) paused() string        { return string(k) + "paused" }

// The keys of our own, in the same hash slot.
func (k laneKeys) own() string             { return "embedfleet" + strings.TrimPrefix(string(k), "asynq") }
func (k laneKeys) dead() string            { return k.own() + "dead" }
func (k laneKeys) causes() string          { return k.own() + "dead:causes" }
func (k laneKeys) cancelled() string       { return k.own() + "cancelled" }
func (k laneKeys) counts() string          { return k.own() + "counts" }
func (k laneKeys) letter(id string) string { return k.letters() + id }
func (k laneKeys) letters() string         { return k.own() + "letter:" } // prefix of every letter's hash
