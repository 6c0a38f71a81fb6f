package wire

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// Field numbers of asynq's ServerInfo and WorkerInfo (internal/proto/asynq.proto of asynq 0.26). Host, process and
// server have the same in both; a WorkerInfo is a task that a server has in hand.
const (
	fieldHost     = 1
	fieldPID      = 2
	fieldServerID = 3

	fieldConcurrency = 4
	fieldQueues      = 5 // map<string, int32>
	fieldStatus      = 7
	fieldStarted     = 8
	fieldActiveCount = 9

	fieldWorkerTask     = 4
	fieldWorkerType     = 5
	fieldWorkerQueue    = 7
	fieldWorkerStarted  = 8
	fieldWorkerDeadline = 9
)

// beatTTL is how long a heartbeat is believed, as asynq has it.
const beatTTL = 10 * time.Second

// A Server is what asynq's tools show of a process that serves queues.
type Server struct {
	Host        string
	PID         int
	ID          string
	Concurrency int
	Queues      map[string]int // queue -> weight
	Started     time.Time
	Tasks       []ServerTask
}

// A ServerTask is a task that a server has in hand.
type ServerTask struct {
	ID, Type, Queue   string
	Started, Deadline time.Time
}

func (s Server) process() string  { return fmt.Sprintf("{%s:%d:%s}", s.Host, s.PID, s.ID) }
func (s Server) key() string      { return "asynq:servers:" + s.process() }
func (s Server) tasksKey() string { return "asynq:workers:" + s.process() }

// Beat writes a heartbeat, which lapses after 10 s.
func Beat(ctx context.Context, rdb redis.UniversalClient, s Server) error {
	lapses := float64(time.Now().Add(beatTTL).Unix())
	_, err := rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.ZAdd(ctx, "asynq:servers", redis.Z{Score: lapses, Member: s.key()})
		pipe.ZAdd(ctx, "asynq:workers", redis.Z{Score: lapses, Member: s.tasksKey()})
		pipe.Set(ctx, s.key(), s.info(), beatTTL)
		pipe.Del(ctx, s.tasksKey())
		if len(s.Tasks) > 0 {
			pipe.HSet(ctx, s.tasksKey(), s.taskInfos()...)
			pipe.Expire(ctx, s.tasksKey(), beatTTL)
		}
		return nil
	})
	return err
}

// Gone takes a heartbeat away.
func Gone(ctx context.Context, rdb redis.UniversalClient, s Server) error {
	_, err := rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.ZRem(ctx, "asynq:servers", s.key())
		pipe.ZRem(ctx, "asynq:workers", s.tasksKey())
		pipe.Del(ctx, s.key())
		pipe.Del(ctx, s.tasksKey())
		return nil
	})
	return err
}

// identity is what a ServerInfo and its WorkerInfos share.
func (s Server) identity() []byte {
	b := AppendBytes(nil, fieldHost, s.Host)
	b = AppendVarint(b, fieldPID, int64(s.PID))
	return AppendBytes(b, fieldServerID, s.ID)
}

func (s Server) info() []byte {
	b := AppendVarint(s.identity(), fieldConcurrency, int64(s.Concurrency))
	for _, queue := range slices.Sorted(maps.Keys(s.Queues)) {
		entry := AppendVarint(AppendBytes(nil, 1, queue), 2, int64(s.Queues[queue]))
		b = AppendBytes(b, fieldQueues, entry)
	}
	b = AppendBytes(b, fieldStatus, "active")
	b = appendTime(b, fieldStarted, s.Started)
	return AppendVarint(b, fieldActiveCount, int64(len(s.Tasks)))
}

// taskInfos returns the ids and the WorkerInfos of what is in hand.
func (s Server) taskInfos() []any {
	list := make([]any, 0, 2*len(s.Tasks))
	for _, t := range s.Tasks {
		b := AppendBytes(s.identity(), fieldWorkerTask, t.ID)
		b = AppendBytes(b, fieldWorkerType, t.Type)
		b = AppendBytes(b, fieldWorkerQueue, t.Queue)
		b = appendTime(b, fieldWorkerStarted, t.Started)
		list = append(list, t.ID, appendTime(b, fieldWorkerDeadline, t.Deadline))
	}
	return list
}
