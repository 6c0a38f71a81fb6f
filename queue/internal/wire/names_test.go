package wire

import (
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/tasks"
)

func TestQueueNames(t *testing.T) {
	t.Parallel()
	for _, lane := range tasks.Lanes {
		model, got, ok := ParseQueueName(QueueName("mini-lm.v2", lane))
		if !ok || model != "mini-lm.v2" || got != lane {
			t.Errorf("%s came back as %q, %q, %v", lane, model, got, ok)
		}
	}
	for _, name := range []string{"", "default", "embed:m", "embed:m:nope", "embed::live", "embed:m:x:live", "embed:{m}:live"} {
		if model, lane, ok := ParseQueueName(name); ok {
			t.Errorf("%q is read as %q, %q", name, model, lane)
		}
	}
}

// Every key of a lane is in one hash slot, tells its queue, and is nobody else's.
func TestKeysOfALane(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, lane := range []tasks.Lane{tasks.Live, tasks.Query} {
		k := KeysOf("m", lane)
		if k.Queue() != QueueName("m", lane) {
			t.Errorf("the queue of %s is called %q", lane, k.Queue())
		}
		for name, key := range map[string]string{
			"task": k.Task("x"), "pending": k.Pending(), "active": k.Active(), "lease": k.Lease(), "scheduled": k.Scheduled(),
			"retry": k.Retry(), "archived": k.Archived(), "completed": k.Completed(), "processed": k.Processed(),
			"failed": k.Failed(), "paused": k.Paused(), "dead": k.Dead(), "causes": k.Causes(), "cancelled": k.Cancelled(),
			"counts": k.Counts(), "letter": k.Letter("x"),
		} {
			if other := seen[key]; other != "" {
				t.Errorf("%s of %s is %s, as %s is", name, lane, key, other)
			}
			seen[key] = name + " of " + string(lane)
			if !strings.Contains(key, "{"+QueueName("m", lane)+"}") {
				t.Errorf("%s of %s is %s, in another slot than its lane", name, lane, key)
			}
			queue, ours := QueueOfKey(key)
			if asynqs := strings.HasPrefix(key, "asynq:"); ours != asynqs || asynqs && queue != QueueName("m", lane) {
				t.Errorf("%s is read as a key of %q, %v", key, queue, ours)
			}
		}
	}
	for _, key := range []string{RegistryKey, "asynq:servers", "embedfleet:workers", "asynq:{x"} {
		if queue, ok := QueueOfKey(key); ok {
			t.Errorf("%s is read as a key of %q", key, queue)
		}
	}
}
