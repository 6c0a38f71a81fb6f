// Package queue is asynq made dependable: a client that enqueues in bulk, a server whose slots follow the
// handler, acks that survive a fault, and the state of every lane.
//
// It owns every key that begins with "asynq:" and the key names below. It knows what a task's envelope is
// (id, kind, model, lane, timeout) and refuses to know what is inside: the payload passes unread. No other
// room imports asynq, so that its traps stay here; they are numbered T1 to T35 in docs/asynq.md of the
// project's shared notes and named by number where the code answers one.
//
// # Promise
//
// A task is delivered at least once, and acknowledged only after its handler returned nil. A task may run
// twice: after a crash, after a lost ack, after a timeout. Handlers must be idempotent.
//
// # Names
//
// A lane of a model is the asynq queue "embed:<alias>:<lane>"; all of its keys share one hash slot in
// Redis Cluster, since asynq writes the queue's name in braces.
//
//	asynq:queues                        SET   every queue; refreshed by clients and servers (T8)
//	asynq:{embed:<alias>:<lane>}:...    asynq 0.26's own layout
//	embedfleet:workers                  ZSET  worker id -> Unix time at which its entry lapses
//	embedfleet:worker:<id>              HASH  what the worker says of itself, TTL [WorkerTTL]
//	embedfleet:calls:<id>               HASH  tasks inside a native call of the worker, see [Calls], TTL 1 h
//
// A task's hash has two fields that asynq does not know: "crashes", how often a worker died with the task
// inside a native call, and "charged", the worker of the last time.
//
// asynq's message and key formats are not public, so this room depends on version 0.26 exactly; tests
// compare what it writes with what asynq's own client writes.
package queue
