package wire

import (
	"fmt"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/tasks"
)

// What asynq's own inspector reads of a heartbeat is what was written.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	rdb := testkit.Redis(t)
	queue := QueueName("m", tasks.Live)
	at := time.Now().Truncate(time.Microsecond)
	s := Server{Host: "h", PID: 7, ID: "id", Concurrency: 512, Queues: map[string]int{queue: 2, QueueName("m", tasks.Query): 1},
		Started: at, Tasks: []ServerTask{{ID: "t1", Type: "k", Queue: queue, Started: at, Deadline: at.Add(time.Minute)}}}
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	for _, tasksInHand := range []int{1, 0} {
		s.Tasks = s.Tasks[:tasksInHand]
		if err := Beat(t.Context(), rdb, s); err != nil {
			t.Fatal(err)
		}
		list, err := inspector.Servers()
		if err != nil || len(list) != 1 {
			t.Fatalf("%d servers, %v", len(list), err)
		}
		got := list[0]
		if got.Host != "h" || got.PID != 7 || got.ID != "id" || got.Concurrency != 512 || got.Status != "active" || !got.Started.Equal(at) ||
			fmt.Sprint(got.Queues) != fmt.Sprint(s.Queues) || len(got.ActiveWorkers) != tasksInHand {
			t.Errorf("%+v", got)
		}
		for _, w := range got.ActiveWorkers {
			if w.TaskID != "t1" || w.TaskType != "k" || w.Queue != queue || !w.Started.Equal(at) || !w.Deadline.Equal(at.Add(time.Minute)) {
				t.Errorf("%+v", w)
			}
		}
	}
	// Of a process that dies it lapses.
	if ttl := rdb.PTTL(t.Context(), s.key()).Val(); ttl <= 0 || ttl > beatTTL {
		t.Errorf("it lapses in %v", ttl)
	}
	if err := Gone(t.Context(), rdb, s); err != nil {
		t.Fatal(err)
	}
	if keys := rdb.Keys(t.Context(), "*").Val(); len(keys) > 0 {
		t.Errorf("left: %q", keys)
	}
}
