// Package wire is what a lane looks like in Redis: asynq 0.26's keys, messages and process registries, and the
// keys, fields and letters of our own beside them. It is written here and nowhere else.
//
// asynq's message and key formats are not public, so this room depends on [AsynqVersion] exactly; tests compare
// what it writes with what asynq's own client writes, and what it reads with what asynq's own inspector reads.
package wire

import (
	"fmt"
	"slices"
	"strings"

	"github.com/embedfleet/embedfleet/tasks"
)

const (
	queuePrefix = "embed:"
	// LanePattern matches every key of every lane that asynq knows.
	LanePattern = "asynq:{" + queuePrefix + "*}:*"
	// RegistryKey is the set in which asynq's tools look for queues.
	RegistryKey = "asynq:queues"
	// CancelChannel is where asynq's tools ask for the end of a task that runs; the message is its id.
	CancelChannel = "asynq:cancel"
)

// QueueName returns the asynq queue of a model's lane, "embed:<alias>:<lane>".
func QueueName(model string, lane tasks.Lane) string {
	return queuePrefix + model + ":" + string(lane)
}

// ParseQueueName is the inverse of [QueueName]. It reports false for a queue that is not one of ours.
func ParseQueueName(name string) (model string, lane tasks.Lane, ok bool) {
	rest, ours := strings.CutPrefix(name, queuePrefix)
	model, last, found := strings.Cut(rest, ":")
	lane = tasks.Lane(last)
	if !ours || !found || CheckLane(model, lane) != nil {
		return "", "", false
	}
	return model, lane, true
}

// QueueOfKey returns the queue that one of its keys belongs to.
func QueueOfKey(key string) (name string, ok bool) {
	rest, ours := strings.CutPrefix(key, "asynq:{")
	name, _, found := strings.Cut(rest, "}:")
	return name, ours && found
}

// CheckLane reports why there is no such lane.
func CheckLane(model string, lane tasks.Lane) error {
	if err := tasks.CheckModel(model); err != nil {
		return err
	}
	if !slices.Contains(tasks.Lanes, lane) {
		return fmt.Errorf("lane %q: want one of %v", lane, tasks.Lanes)
	}
	return nil
}

// Keys builds the keys of one lane, and is the only place that does. It holds the part they share.
type Keys string

// KeysOf returns the keys of a model's lane.
func KeysOf(model string, lane tasks.Lane) Keys {
	return Keys("asynq:{" + QueueName(model, lane) + "}:")
}

// Queue is the queue's name.
func (k Keys) Queue() string {
	return strings.TrimSuffix(strings.TrimPrefix(string(k), "asynq:{"), "}:")
}

// The keys that asynq gives a queue.
func (k Keys) Task(id string) string { return k.Tasks() + id }
func (k Keys) Tasks() string         { return string(k) + "t:" } // prefix of every task's hash
func (k Keys) Pending() string       { return string(k) + "pending" }
func (k Keys) Active() string        { return string(k) + "active" }
func (k Keys) Lease() string         { return string(k) + "lease" }
func (k Keys) Scheduled() string     { return string(k) + "scheduled" }
func (k Keys) Retry() string         { return string(k) + "retry" }
func (k Keys) Archived() string      { return string(k) + "archived" }
func (k Keys) Completed() string     { return string(k) + "completed" }
func (k Keys) Processed() string     { return string(k) + "processed" } // a counter; with ":<date>" the day's
func (k Keys) Failed() string        { return string(k) + "failed" }    // likewise
func (k Keys) Paused() string        { return string(k) + "paused" }

// The keys of our own, in the same hash slot.
func (k Keys) own() string             { return "embedfleet" + strings.TrimPrefix(string(k), "asynq") }
func (k Keys) Dead() string            { return k.own() + "dead" }
func (k Keys) Causes() string          { return k.own() + "dead:causes" }
func (k Keys) Cancelled() string       { return k.own() + "cancelled" } // also the channel of cancellations
func (k Keys) Counts() string          { return k.own() + "counts" }
func (k Keys) Letter(id string) string { return k.Letters() + id }
func (k Keys) Letters() string         { return k.own() + "letter:" } // prefix of every letter's hash

// CallsKey is the hash of the tasks that are inside a native call of a worker.
func CallsKey(worker string) string { return "embedfleet:calls:" + worker }

// TaskName names a task among all lanes.
func TaskName(model string, lane tasks.Lane, id string) string {
	return QueueName(model, lane) + "/" + id
}
