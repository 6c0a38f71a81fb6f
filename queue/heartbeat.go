package queue

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of asynq's ServerInfo and WorkerInfo (internal/proto/asynq.proto of asynq 0.26). Host, process and server
// have the same in both.
const (
	fieldServerID = 3
	fieldQueues   = 5 // map<string, int32> of ServerInfo
	fieldActive   = 9 // how many tasks a server has in hand; ServerInfo's last

	fieldWorkerTask     = 4
	fieldWorkerType     = 5
	fieldWorkerQueue    = 7
	fieldWorkerStarted  = 8
	fieldWorkerDeadline = 9
)

// A heartbeatHook adds the tasks of bundles to asynq's heartbeats: asynq's tools show what a server has in hand by
// these. Their payloads stay away, which asynq would repeat every five seconds (T23); the tools find them with the task.
type heartbeatHook struct{ pools map[string]*bundles } // by queue name

// DialHook changes nothing.
func (heartbeatHook) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook changes nothing: heartbeats travel outside of pipelines.
func (heartbeatHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook looks for heartbeats: a script with the server's key and its workers', with the arguments time to live,
// ServerInfo, and the id and the WorkerInfo of each task.
func (h heartbeatHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		const fixed = 3 + 2 + 2
		args := cmd.Args()
		reply, ok := cmd.(*redis.Cmd)
		if !ok || len(args) < fixed || !strings.HasPrefix(cmd.Name(), "eval") {
			return next(ctx, cmd)
		}
		key, _ := args[3].(string)
		info, ok := args[fixed-1].([]byte)
		if !ok || !strings.HasPrefix(key, "asynq:servers:") {
			return next(ctx, cmd)
		}
		more, n := h.workers(info)
		if n == 0 {
			return next(ctx, cmd)
		}
		full := append(make([]any, 0, len(args)+len(more)), args...)
		active := int64(len(args)-fixed)/2 + int64(n)
		// Of a field that comes twice the last one counts.
		full[fixed-1] = appendVarint(append([]byte(nil), info...), fieldActive, active)
		own := redis.NewCmd(ctx, append(full, more...)...)
		err := next(ctx, own)
		reply.SetVal(own.Val())
		reply.SetErr(err)
		return err
	}
}

// workers returns the ids and the WorkerInfos of the bundles' tasks of a server, and how many there are.
func (h heartbeatHook) workers(info []byte) (args []any, n int) {
	var server []byte // the fields that a WorkerInfo shares
	var pool *bundles
	for len(info) > 0 {
		num, typ, head := protowire.ConsumeTag(info)
		if head < 0 {
			return nil, 0
		}
		size := protowire.ConsumeFieldValue(num, typ, info[head:])
		if size < 0 {
			return nil, 0
		}
		field := info[:head+size]
		switch {
		case num <= fieldServerID:
			server = append(server, field...)
		case num == fieldQueues && pool == nil:
			entry, _ := protowire.ConsumeBytes(field[head:])
			pool = h.pools[mapKey(entry)]
		}
		info = info[head+size:]
	}
	if pool == nil {
		return nil, 0
	}
	for _, g := range pool.all() {
		for i, run := range g.remaining() {
			w := append([]byte(nil), server...)
			w = appendBytes(w, fieldWorkerTask, run.ID)
			w = appendBytes(w, fieldWorkerType, string(g.items[i].Task.Kind))
			w = appendBytes(w, fieldWorkerQueue, queueName(g.items[i].Task.Model, run.Lane))
			w = appendTime(w, fieldWorkerStarted, run.Started)
			w = appendTime(w, fieldWorkerDeadline, run.Deadline)
			args = append(args, run.ID, w)
		}
	}
	return args, len(args) / 2
}

// mapKey returns the name of a map's entry.
func mapKey(entry []byte) string {
	num, typ, n := protowire.ConsumeTag(entry)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return ""
	}
	key, size := protowire.ConsumeBytes(entry[n:])
	if size < 0 {
		return ""
	}
	return string(key)
}

// appendTime appends a google.protobuf.Timestamp.
func appendTime(dst []byte, num protowire.Number, t time.Time) []byte {
	return appendBytes(dst, num, appendVarint(appendVarint(nil, 1, t.Unix()), 2, int64(t.Nanosecond())))
}
